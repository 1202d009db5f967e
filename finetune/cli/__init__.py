"""The command line: one file a command; the only place that knows exit codes."""

from finetune.cli.app import main

__all__ = ["main"]
