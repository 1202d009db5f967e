"""What a check found, as data from which the verdict is derived later."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from grader.errors import listed
from grader.statistics.proportions import Interval

Number = float | int
NO_RUNS, NO_PREDICTIONS = "There are no runs to check.", "There are no prediction files to check."
MINUS = "\N{MINUS SIGN}"  # the only minus sign in text for people


class Level(IntEnum):
    """Levels of evidence, from weak to strong."""

    FILE = 1
    PREDICTIONS = 2
    TRUTH = 3
    CHECKPOINTS = 4
    REPLAY = 5

    @property
    def description(self) -> str:
        """The evidence in words."""
        return ("results file", "predictions", "ground truth", "checkpoints", "replayed training")[self - 1]


class Status(StrEnum):
    """The outcome of a check."""

    HOLDS = "holds"
    FAILS = "fails"
    INCONCLUSIVE = "inconclusive"
    NOT_CHECKED = "not checked"  # evidence is missing, or the failure of another property explains it


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        status: The outcome.
        level: The strongest evidence used.
        summary: One line with the numbers.
        details: One line for each problem or remark.
        numbers: The numbers behind the summary, for programs. Shares are 0 to 1, times are in seconds.
        held: How many of the items judged (runs, pairs, files) hold.
        judged: How many items were judged.
        name: Name of the property; set by the registry.
    """

    status: Status
    level: Level
    summary: str
    details: tuple[str, ...] = ()
    numbers: Mapping[str, Number] = field(default_factory=dict)
    held: int = 0
    judged: int = 0
    name: str = ""


def from_problems(problems: Mapping[str, Sequence[str]], level: Level, holds: str) -> Finding:
    """The finding of a check that judges several items, each of which is fine or has problems.

    Args:
        problems: For each item, its problems: one sentence each.
        level: Evidence used.
        holds: The summary if there are no problems.
    """
    found = [problem for item in problems.values() for problem in item]
    held = sum(not item for item in problems.values())
    if not problems:
        return not_checked(NO_RUNS if level is Level.FILE else NO_PREDICTIONS, level)
    if not found:
        return Finding(Status.HOLDS, level, holds, held=held, judged=len(problems))
    summary = found[0] if len(found) == 1 else f"{found[0]} ({len(found) - 1:,} more)"
    details = tuple(listed(found)) if len(found) > 1 else ()
    return Finding(Status.FAILS, level, summary, details, held=held, judged=len(problems))


def not_checked(reason: str, level: Level) -> Finding:
    """The finding of a check that could not be made."""
    return Finding(Status.NOT_CHECKED, level, reason)


def counted(n: int, noun: str) -> str:
    """A number with its noun, such as `1 epoch` or `1,020 images`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def in_words(names: Sequence[str], most: int | None = None) -> str:
    """Names in a sentence: `A, B and C`, or with more than `most`, `A, B and 3 more`."""
    if most is not None and len(names) > most:
        return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def in_points(share: float) -> str:
    """A signed difference of shares in percentage points, such as `−5.7`."""
    return f"{100 * share:+.1f}".replace("-", MINUS)


def limits_in_points(gap: Interval) -> str:
    """A difference with its confidence limits, such as `+2.0 points (−1.1 to +5.1)`."""
    return f"{in_points(gap.estimate)} points ({in_points(gap.low)} to {in_points(gap.high)})"


def rate_text(rate: float) -> str:
    """A learning rate as a person reads it; files have it exactly."""
    return f"{rate:.3g}"
