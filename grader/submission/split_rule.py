"""How a run splits its images: `official`, or percentages such as `70-15-15`; finetune uses it, too."""

import re

OFFICIAL = "official"
STANDARD = (70, 15, 15)

_SHARES = re.compile(r"([1-9][0-9]?)-([1-9][0-9]?)-([1-9][0-9]?)")


def shares_of(rule: str) -> tuple[int, int, int] | None:
    """The percentages of training, validation and test, which need not add up to 100; None without any."""
    found = _SHARES.fullmatch(rule)
    if found is None:
        return None
    train, val, test = map(int, found.groups())
    return train, val, test
