"""Configurations as TOML: the presets, users' files in the same format, and the `config.toml` of a run."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from finetune.config.experiment import STANDARD_VARIANTS, ExperimentConfig, Recipe, Variant, pick, require
from finetune.config.names import dataset_of
from finetune.config.tune import MODES, Tune
from finetune.errors import ConfigError, did_you_mean
from grader.errors import UnusableError
from grader.reading.files import read_bytes

MAX_BYTES = 1024 * 1024
"""Of a file: a run folder from somebody else may hold a FIFO or a file without end in place of one."""


def preset_names() -> dict[str, str]:
    """The presets that come with finetune: name and one-line description."""
    folder = resources.files("finetune.config") / "presets"
    tables = {f.name.removesuffix(".toml"): tomllib.loads(f.read_text("utf-8")) for f in folder.iterdir()}
    return {name: str(tables[name]["description"]) for name in sorted(tables)}


def load_preset(name: str) -> ExperimentConfig:
    """Read a preset by name, or any TOML file in the same format, such as a run's `config.toml`.

    Raises:
        ConfigError: no such preset or file, not TOML, an unknown key, or a value that breaks its rule.
    """
    if name.endswith(".toml"):
        try:
            text = read_bytes(Path(name), "it", MAX_BYTES, follow=True).decode()
        except (UnusableError, UnicodeDecodeError) as error:
            why = str(error).removeprefix("Cannot read it: ").rstrip(".")
            raise ConfigError(f"The preset file {name} cannot be read ({why}); check the path.") from error
    else:
        known = preset_names()
        require(name in known, "preset", f"{', '.join(known)} or the path of a .toml file", name, known)
        text = (resources.files("finetune.config") / "presets" / f"{name}.toml").read_text("utf-8")
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"The preset {name} must be valid TOML, but it is not: {error}.") from error
    return _from_table(table, Path(name).stem if name.endswith(".toml") else name)


def _from_table(table: dict[str, Any], name: str) -> ExperimentConfig:
    table = {k: v for k, v in table.items() if k != "description"}
    if isinstance(table.get("track"), list):
        table["track"] = tuple(dict.fromkeys(map(str, table["track"])))
    recipe = table.pop("recipe", {})
    rows = table.pop("variants", {})
    picked = table.pop("pick", None)
    tune = _tune(table.pop("tune", None), f"preset {name}")
    for key, value in (("recipe", recipe), ("variants", rows)):
        require(isinstance(value, dict), f"{key} in preset {name}", "a table", value)
    _fill_in_what_version_0_1_left_out(table, recipe)
    if isinstance(table.get("dataset"), str):
        table["dataset"] = dataset_of(table["dataset"])
    variants = {v.name: _set_fields(v) for v in STANDARD_VARIANTS}
    for row, fields in rows.items():
        require(isinstance(fields, dict), f"variants.{row} in preset {name}", "a table", fields)
        standard = next((v for v in variants if v.casefold() == row.casefold()), row)
        variants[standard] = {"name": standard, **variants.get(standard, {}), **fields}
    for fields in variants.values():
        if isinstance(fields.get("train"), list):
            fields["train"] = tuple(fields["train"])
    made = tuple(
        Variant(**_checked(Variant, fields, f"[variants.{row}] of preset {name}"))
        for row, fields in variants.items()
    )
    if picked is not None:
        listed = isinstance(picked, list) and all(isinstance(n, str) for n in picked)
        require(listed, f"pick in preset {name}", "a list of variant names", picked)
        made = pick(made, picked)
    return ExperimentConfig(
        **_checked(ExperimentConfig, {"preset": name, **table}, f"preset {name}"),
        tune=tune,
        recipe=Recipe(**_checked(Recipe, recipe, f"[recipe] of preset {name}")),
        variants=made,
    )


def _fill_in_what_version_0_1_left_out(table: dict[str, Any], recipe: Any) -> None:
    """Let the config.toml of a run of version 0.1 mean what it meant: the seed decided the split, too.

    Only finetune itself writes the key `preset`, and since then also `split_seed`.
    """
    if "preset" in table and "split_seed" not in table:
        table["split_seed"] = table.get("seed", 0)
        if isinstance(recipe, dict):
            recipe.setdefault("statistics", "running")


def _tune(value: object, where: str) -> Tune | None:
    """What `tune = "halving"`, or a table `[tune]` of `mode` and `rates`, says; None if neither is there."""
    if value is None:
        return None
    fields: Any = {"mode": value} if isinstance(value, str) else value
    require(
        isinstance(fields, dict),
        f"tune in {where}",
        f"{' or '.join(MODES)}, or a table with mode and rates",
        value,
    )
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return Tune(**_checked(Tune, fields, f"[tune] of {where}"))


def _set_fields(variant: Variant) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(variant).items() if v is not None}


def _checked(cls: type[Any], table: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    fields = {f.name: f for f in dataclasses.fields(cls) if f.name not in ("variants", "recipe", "tune")}
    for key in table:
        if key not in fields:
            if cls is ExperimentConfig and key in {f.name for f in dataclasses.fields(Recipe)}:
                raise ConfigError(f"{where} has the key {key!r} outside [recipe]; move it into that table.")
            raise ConfigError(
                f"{where} has an unknown key {key!r}; the valid ones are {', '.join(fields)}"
                f"{did_you_mean(key, [f.name for f in dataclasses.fields(cls)]) or '.'}"
            )
    missing = [n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in table]
    if missing:
        raise ConfigError(f"{where} must have the key {missing[0]!r}, but it does not; add it.")
    for key, value in table.items() if cls is ExperimentConfig else ():  # the others say what they want
        if fields[key].type in ("str", "str | None"):
            require(isinstance(value, str), f"{key} in {where}", "a string", value)
    return table


def to_table(config: ExperimentConfig) -> dict[str, Any]:
    """The configuration as a TOML table that `load_preset` reads back; unset values are left out."""
    table = {k: v for k, v in dataclasses.asdict(config).items() if v is not None}
    rows = {v.name: {k: x for k, x in _set_fields(v).items() if k != "name"} for v in config.variants}
    del table["variants"]
    return {"pick": list(rows), **table, "variants": rows}
