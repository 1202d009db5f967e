"""What a check says: data, from which the verdict is derived later."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from grader.errors import listed

Number = float | int


class Level(IntEnum):
    """Evidence, from weak to strong."""

    FILE = 1
    PREDICTIONS = 2
    TRUTH = 3
    CHECKPOINTS = 4

    @property
    def noun(self) -> str:
        """What it is, for people."""
        return ("the file alone", "predictions", "truth", "checkpoints")[self - 1]


class Status(StrEnum):
    """How a property ends."""

    HOLDS = "holds"
    FAILS = "fails"
    NOT_SEPARABLE = "not separable"
    NOT_CHECKED = "not checked"  # the evidence is not there, or another finding explains it


@dataclass(frozen=True)
class Finding:
    """One property, judged.

    Attributes:
        status: How it ended.
        level: The strongest evidence it used.
        summary: One line with the numbers.
        details: One line for each thing that is wrong or worth knowing.
        numbers: What the summary says, for machines. Shares are 0 to 1, times are seconds.
        held: How many of the judged items hold (runs, pairs, files).
        judged: How many items were judged.
        name: The property's name; set by the registry.
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
    """The finding of a check that looks at several items, each of which is right or has problems.

    Args:
        problems: For each item judged, what is wrong with it: one sentence each.
        level: Evidence used.
        holds: The summary when nothing is wrong.
    """
    wrong = [problem for item in problems.values() for problem in item]
    held = sum(not item for item in problems.values())
    if not problems:
        return not_checked("There is nothing to judge it on.", level)
    if not wrong:
        return Finding(Status.HOLDS, level, holds, held=held, judged=len(problems))
    summary = wrong[0] if len(wrong) == 1 else f"{wrong[0]} And {len(wrong) - 1:,} more."
    details = tuple(listed(wrong)) if len(wrong) > 1 else ()
    return Finding(Status.FAILS, level, summary, details, held=held, judged=len(problems))


def not_checked(why: str, level: Level) -> Finding:
    """The finding of a check that could not be made."""
    return Finding(Status.NOT_CHECKED, level, why)
