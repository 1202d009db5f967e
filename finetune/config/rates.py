"""Peak learning rates as they are given: one for every variant, or rates by variant."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from finetune.config.rules import require
from finetune.config.variant import Variant

RULE = "a number, or rates by variant such as a=0.03,b=0.01"


def rates_of(value: object) -> tuple[float | None, dict[str, float]]:
    """The rate for every variant, if any, and the rates of some, by name.

    Args:
        value: a number; a mapping from names to numbers; or text such as "0.03", "a=0.03,b=0.01" and
            "0.03,b=0.01": 0.03 for all but B.

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(value, int | float):
        return value, {}
    if isinstance(value, Mapping):
        pairs = [(str(name), rate) for name, rate in value.items()]
    else:
        parts = [part.strip() for part in str(value).split(",")]
        pairs = [(name.strip(), rate) for name, _, rate in (part.rpartition("=") for part in parts)]
    found: dict[str, float] = {}
    for index, (name, rate) in enumerate(pairs):
        require(name.casefold() not in found, "lr", f"{RULE}, each variant once", value)
        require(name != "" or index == 0, "lr", RULE, value)
        try:
            found[name.casefold()] = float(rate)
        except (TypeError, ValueError):
            require(False, "lr", RULE, value)
    require(len(found) > 0, "lr", RULE, value)
    return found.pop("", None), found


def with_rates(variants: Sequence[Variant], rates: Mapping[str, float]) -> tuple[Variant, ...]:
    """The variants, those that are named with a peak learning rate of their own.

    Raises:
        ConfigError: a name is none of theirs, or a rate is not above 0.
    """
    names = {v.name.casefold() for v in variants}
    for name in rates:
        rule = f"for one of the variants {', '.join(v.name for v in variants)}"
        require(name.casefold() in names, "lr", rule, name)
    return tuple(
        dataclasses.replace(v, lr=rates[v.name.casefold()]) if v.name.casefold() in rates else v
        for v in variants
    )
