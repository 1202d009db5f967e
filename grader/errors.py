"""What can go wrong before anything can be judged."""

from collections.abc import Sequence

SHOWN_IN_FULL = 50  # problems of one file that a message lists; the rest are counted


def listed(problems: Sequence[str]) -> list[str]:
    """The first of many problems in full, and how many more there are."""
    more = len(problems) - SHOWN_IN_FULL
    return [*problems[:SHOWN_IN_FULL], *([f"... and {more:,} more."] if more > 0 else [])]


class GraderError(Exception):
    """Base of every error the grader raises on purpose. Its text is one that a user can act on."""


class UsageError(GraderError, ValueError):
    """An option, a policy or a path that the caller gave cannot be used."""


class UnusableError(GraderError, ValueError):
    """The submission cannot be judged.

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
