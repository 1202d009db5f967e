"""Errors raised before anything can be judged."""

import difflib
from collections.abc import Iterable, Sequence

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

    @property
    def first(self) -> str:
        """The first problem as a part of another sentence: without its full stop."""
        return self.problems[0].rstrip(".")

    def __str__(self) -> str:
        return "\n".join(listed(self.problems))

    def __reduce__(self) -> tuple[type["UnusableError"], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)  # the default would lose the list between processes


def nearest(value: str, choices: Iterable[str]) -> str | None:
    """The choice most similar to what was mistyped, ignoring case; None if none is similar."""
    by_key = {choice.casefold(): choice for choice in choices}
    found = difflib.get_close_matches(value.casefold(), by_key, 1)
    return by_key[found[0]] if found else None


def did_you_mean(value: str, choices: Iterable[str]) -> str:
    """A question to follow a sentence about an unknown value; empty if nothing is similar."""
    near = nearest(value, choices)
    return f" Did you mean {near!r}?" if near else ""
