"""The exit codes of the command line."""

from __future__ import annotations

from collections.abc import Mapping

FAILED_VARIANT = 1
BAD_INPUT = 2
SIGNAL = 128
"""Plus the number of the signal that stopped the command."""


def exit_code(returned: object) -> int:
    """The exit code for what a command returned: results, click's own exit code for --help, or nothing."""
    if isinstance(returned, Mapping):
        failed = any(run["status"] != "completed" for run in returned["runs"])
        return FAILED_VARIANT if failed else 0
    return returned if isinstance(returned, int) else 0
