"""Configurations of experiments that take seconds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from finetune.config.experiment import ExperimentConfig, Recipe

RECIPE_FIELDS = {f.name for f in dataclasses.fields(Recipe)}
TINY_OPTIONS = (
    "--dataset digits --subset 2 --epochs 2 --batch-size 8 --image-size 16 --lr 0.02 --device cpu --workers 1"
)


def tiny_config(**fields: Any) -> ExperimentConfig:
    """20 training digits at 16 px, two epochs; takes fields of `Recipe` and of `ExperimentConfig`."""
    recipe = {
        "epochs": 2,
        "batch_size": 8,
        "image_size": 16,
        "lr": 0.02,
        "crop_area_min": 0.6,
        "flip_probability": 0.0,
    }
    recipe |= {k: v for k, v in fields.items() if k in RECIPE_FIELDS}
    rest = {k: v for k, v in fields.items() if k not in RECIPE_FIELDS}
    base = {"dataset": "digits", "weights": "bundled", "subset": 2, "device": "cpu", "workers": 1}
    base["data_root"] = "/data"  # config.toml would otherwise depend on the working directory
    return ExperimentConfig(**{**base, **rest}, recipe=Recipe(**recipe))


def tiny_command(out: Path, weights: Path | str, *more: object) -> list[object]:
    """Arguments of `finetune` for about the same; a second with the narrow network."""
    return ["train", *TINY_OPTIONS.split(), "--weights", weights, "--out", out, *more]
