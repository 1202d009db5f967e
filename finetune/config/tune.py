"""How each variant's peak learning rate is tuned: mode and grid of rates, validated when constructed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from finetune.config.rules import is_number, require, require_choice

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
        require_choice("The mode of tune", MODES, self.mode)
        rates = self.rates
        ascending = (
            isinstance(rates, tuple)
            and len(rates) > 1
            and all(map(is_number, rates))
            and all(low < high for low, high in pairwise((0, *rates)))
        )
        require(
            ascending,
            "The rates of tune",
            "at least two peak learning rates above 0, each above the one before",
            list(rates) if isinstance(rates, tuple) else rates,
        )
        object.__setattr__(self, "rates", tuple(map(float, rates)))
