"""How each variant's peak learning rate is tuned: mode and grid of rates, validated when constructed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune.errors import ConfigError, did_you_mean

MODES = ("halving", "full")

RATES = tuple(10 ** (k / 2) for k in range(-5, 0))
"""0.00316 to 0.316 in steps of the square root of 10, as wide as the best rates of A, B and C lie apart."""


@dataclass(frozen=True, kw_only=True)
class Tune:
    """The trials that every variant gets alike before the final runs.

    Args:
        mode: `halving`: all rates at a quarter of the epochs, the best two at half of them; or `full`: all
            rates at all epochs.
        rates: at least two peak learning rates, ascending.

    Raises:
        ConfigError: a field breaks its rule.
    """

    mode: str = "halving"
    rates: tuple[float, ...] = RATES

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(
                f"The mode of tune must be {' or '.join(MODES)}, but {self.mode!r} was given"
                f"{did_you_mean(self.mode, MODES) or '.'}"
            )
        rates = self.rates
        ascending = (
            isinstance(rates, tuple)
            and len(rates) > 1
            and all(isinstance(r, int | float) and not isinstance(r, bool) for r in rates)
            and all(low < high for low, high in zip((0, *rates), (*rates, math.inf), strict=True))
        )
        if not ascending:
            raise ConfigError(
                "The rates of tune must be at least two peak learning rates above 0, each above the one "
                f"before, but {list(rates) if isinstance(rates, tuple) else rates!r} was given."
            )
        object.__setattr__(self, "rates", tuple(map(float, rates)))


def tune_from_table(value: object, where: str) -> Tune | None:
    """What a TOML file says: `tune = "halving"`, or a table `[tune]` of `mode` and `rates`; None if nothing.

    Raises:
        ConfigError: an unknown key, or a value that breaks its rule.
    """
    if value is None or isinstance(value, str):
        return None if value is None else Tune(mode=value)
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"tune in {where} must be {' or '.join(MODES)}, or a table with mode and rates, but {value!r} "
            "was given."
        )
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
    unknown = fields.keys() - {"mode", "rates"}
    if unknown:
        raise ConfigError(
            f"[tune] of {where} has an unknown key {min(unknown)!r}; the valid ones are mode, rates"
            f"{did_you_mean(min(unknown), ('mode', 'rates')) or '.'}"
        )
    return Tune(**fields)
