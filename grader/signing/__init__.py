"""Signed grades: an in-toto statement over a submission, a policy and the findings, and its verification."""
