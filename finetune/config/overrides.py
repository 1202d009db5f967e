"""Options over a preset: the configuration that both make up."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from finetune.config.experiment import ExperimentConfig, Recipe, Variant
from finetune.config.names import dataset_of
from finetune.config.prescribed import prescribe
from finetune.config.presets import load_preset
from finetune.config.rules import require
from finetune.config.tune import Tune
from finetune.errors import ConfigError

RECIPE_FIELDS = {field.name for field in dataclasses.fields(Recipe)}
LR_RULE = "a number, or rates by variant such as a=0.03,b=0.01"


def configure(given: Mapping[str, Any]) -> ExperimentConfig:
    """A preset whose values are overridden by the options that were given.

    Args:
        given: values by field of `ExperimentConfig` or `Recipe`; `variants` as in "a,c"; `lr` as `_rates_of`
            takes it; `longer_scratch`.

    Raises:
        ConfigError: an unknown preset or variant, or a value that breaks its rule.
    """
    fields = dict(given)
    if "dataset" in fields:
        fields["dataset"] = dataset_of(fields["dataset"])
    prescribe(fields)
    config = load_preset(fields.pop("preset", ExperimentConfig.preset))
    variants, longer = fields.pop("variants", None), fields.pop("longer_scratch", None)
    given_lr = fields.pop("lr", None)
    lr, own_lr = (None, {}) if given_lr is None else _rates_of(given_lr)
    recipe = {name: fields.pop(name) for name in RECIPE_FIELDS & fields.keys()}
    recipe |= {} if lr is None else {"lr": lr}
    rows = config.variants
    tune = _tune(fields.pop("tune", None), config.tune, given_lr)
    if tune is not None or lr is not None:  # both are for every variant, so they override its own rate
        rows = tuple(dataclasses.replace(row, lr=None) for row in rows)
    # The preset may be the configuration of a run of several processes; a new run decides for itself.
    fields |= {
        "processes": 1,
        "tune": tune,
        "variants": rows,
        "recipe": dataclasses.replace(config.recipe, **recipe),
    }
    config = dataclasses.replace(config, **fields)
    config = config if variants is None else config.pick(variants)
    config = dataclasses.replace(config, variants=_with_rates(config.variants, own_lr))
    return config if longer is None else config.with_longer_scratch(longer)


def _tune(given: str | None, preset: Tune | None, lr: object) -> Tune | None:
    """The preset's tuning, or what `--tune` says in its place.

    Raises:
        ConfigError: `--lr` was given too.
    """
    if given is None:
        tune = preset
    else:
        rates = preset.rates if preset else Tune().rates
        tune = None if given == "off" else Tune(mode=given, rates=rates)
    if tune is not None and lr is not None:
        advice = "name the rates to try in a preset, [tune] rates = [...]" if given else "add --tune off"
        raise ConfigError(
            f"With --tune trials choose the learning rate of each variant, but --lr {lr} was given too; "
            f"leave --lr out, or {advice}."
        )
    return tune


def _rates_of(value: object) -> tuple[float | None, dict[str, float]]:
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
        require(name.casefold() not in found, "lr", f"{LR_RULE}, each variant once", value)
        require(name != "" or index == 0, "lr", LR_RULE, value)
        try:
            found[name.casefold()] = float(rate)
        except (TypeError, ValueError):
            require(False, "lr", LR_RULE, value)
    require(len(found) > 0, "lr", LR_RULE, value)
    return found.pop("", None), found


def _with_rates(variants: Sequence[Variant], rates: Mapping[str, float]) -> tuple[Variant, ...]:
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
