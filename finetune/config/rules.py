"""Rules for the values of a configuration, and the sentence for one that breaks its rule."""

from __future__ import annotations

import math
from collections.abc import Iterable

from finetune.errors import ConfigError, did_you_mean


def require(holds: bool, what: str, rule: str, value: object, choices: Iterable[str] = ()) -> None:
    """Raise an error unless a value meets its rule.

    Args:
        holds: whether it does.
        what: what the value is for, as the subject of the message.
        rule: what it must be, to follow "must be".
        value: as it was given.
        choices: valid values, of which the nearest is suggested.

    Raises:
        ConfigError: the value breaks the rule.
    """
    if not holds:
        near = did_you_mean(value, choices)
        raise ConfigError(f"{what} must be {rule}, but {value!r} was given{near or '.'}")


def require_choice(what: str, choices: tuple[str, ...], value: object) -> None:
    """Raise an error unless a value is one of the choices, of which there are at least two."""
    require(value in choices, what, f"{', '.join(choices[:-1])} or {choices[-1]}", value, choices)


def is_number(value: object) -> bool:
    """Whether a value is a finite number, which true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_nameable(value: str) -> bool:
    """Whether the operating system allows a path of that name."""
    path = value.encode("utf-8", "surrogateescape")
    return b"\0" not in path and len(path) < 4096 and all(len(part) < 256 for part in path.split(b"/"))


def is_whole(value: object, least: int) -> bool:
    """Whether a value is a whole number of at least `least`, which true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
