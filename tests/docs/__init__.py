"""The documentation: pages generated from the code, links, and the commands that pages show."""
