"""Kinds of splits: the data set's own, or shares of each class in percent, such as 70-15-15."""

from __future__ import annotations

import re

from finetune.config.rules import require

OFFICIAL = "official"
STANDARD = "70-15-15"

_SHARES = re.compile(r"([1-9][0-9]?)-([1-9][0-9]?)-([1-9][0-9]?)")


def shares(split: str) -> tuple[int, int, int]:
    """The percentages of training, validation and test of a split that is not official.

    Raises:
        ConfigError: it is no kind of split.
    """
    found = _SHARES.fullmatch(split) if isinstance(split, str) else None
    percentages = tuple(map(int, found.groups())) if found else ()
    require(
        sum(percentages) == 100,
        "split",
        f"{OFFICIAL}, or percentages for training, validation and test that add up to 100, like {STANDARD}",
        split,
    )
    train, val, test = percentages
    return train, val, test


def require_split(split: str) -> None:
    """Check that a split is official or shares.

    Raises:
        ConfigError: it is neither.
    """
    if split != OFFICIAL:
        shares(split)
