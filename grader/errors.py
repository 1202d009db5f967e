"""Errors raised before anything can be judged."""

from collections.abc import Sequence

MAX_LISTED = 50  # problems of one file that a message lists; the rest are counted


def listed(problems: Sequence[str]) -> list[str]:
    """The first problems in full, followed by the number of the others."""
    more = len(problems) - MAX_LISTED
    return [*problems[:MAX_LISTED], *([f"... and {more:,} more."] if more > 0 else [])]


class GraderError(Exception):
    """Base class of all errors that the grader raises on purpose. The message says what to do."""


class UsageError(GraderError, ValueError):
    """An option, a policy or a path on the command line cannot be used."""


class UnusableError(GraderError, ValueError):
    """The submission cannot be graded.

    Args:
        problems: One sentence each, with the file and the JSON path or line number.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(listed(self.problems))

    def __reduce__(self) -> tuple[type["UnusableError"], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)  # the default would lose the list between processes
