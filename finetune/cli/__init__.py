"""The command line, one file per command: options → configuration, results and errors → exit codes."""

from finetune.cli.app import main

__all__ = ["main"]
