"""Kinds of splits: the data set's own, or shares of each class in percent, such as 70-15-15."""

from __future__ import annotations

from finetune.config.rules import require
from grader.submission import split_rule

OFFICIAL = split_rule.OFFICIAL
STANDARD = "-".join(map(str, split_rule.STANDARD))


def shares(split: str) -> tuple[int, int, int]:
    """The percentages of training, validation and test of a split that is not official.

    Raises:
        ConfigError: it is no kind of split.
    """
    found = split_rule.shares_of(split) if isinstance(split, str) else None
    require(
        found is not None and sum(found) == 100,
        "split",
        f"{OFFICIAL}, or percentages for training, validation and test that add up to 100, like {STANDARD}",
        split,
    )
    assert found is not None  # noqa: S101 - required just now
    return found


def require_split(split: str) -> None:
    """Check that a split is official or shares.

    Raises:
        ConfigError: it is neither.
    """
    if split != OFFICIAL:
        shares(split)
