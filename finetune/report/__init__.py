"""`report.html`: what a run found, as one page for people that needs neither network nor scripts."""
