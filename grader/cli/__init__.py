"""The command line: from options to the submissions to grade, and what they need."""

from grader.cli.app import main

__all__ = ["main"]
