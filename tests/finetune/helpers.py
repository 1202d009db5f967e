"""What several test modules build: image files, tiny configurations, results without their times."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from finetune.config.experiment import ExperimentConfig, Recipe
from finetune.data.datasets import Sample
from finetune.data.store import Store, decode
from finetune.data.stream import evaluation_stream, training_stream
from finetune.system.console import Reporter

RECIPE_FIELDS = {f.name for f in dataclasses.fields(Recipe)}


def tiny(**fields: Any) -> ExperimentConfig:
    """An experiment of seconds: 20 training digits at 16 px, two epochs; recipe fields are taken too."""
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
    return ExperimentConfig(**{**base, **rest}, recipe=Recipe(**recipe))


class Quiet(Reporter):
    """Collects what is said instead of printing it."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


TIMES = ("created_at", "timings", "images_per_second", "peak_memory_bytes", "tool", "free_memory_bytes")


def timeless(value: Any) -> Any:
    """Results without times, rates, memory and the state of the source tree."""
    if isinstance(value, Mapping):
        return {k: timeless(v) for k, v in value.items() if k not in TIMES and not k.endswith("seconds")}
    if isinstance(value, list):
        return [timeless(v) for v in value]
    return value


def files_of(out: Path, skip: tuple[str, ...] = ("results.json", ".lock", "curves.png")) -> dict[str, str]:
    """SHA-256 of every file of a run folder but those whose content tells times."""
    return {
        p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(out.rglob("*"))
        if p.is_file() and p.relative_to(out).as_posix() not in skip
    }


def photo(path: Path, seed: int, width: int = 24, height: int = 20, **options: Any) -> Path:
    """A small coloured image file with content of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def image_tree(root: Path, counts: Mapping[str, int], first_seed: int = 0) -> Path:
    """Class folders with that many images, each image of its own; names may hold a split: "train/cat"."""
    seed = first_seed
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            photo(root / name / f"{number:03d}.png", seed)
            seed += 1
    return root


def decode_training(
    samples: Sequence[Sample], image_size: int, workers: int, tick: Callable[[int], None]
) -> Store:
    """Training images, decoded."""
    return decode(training_stream(samples, image_size, workers), tick)


def decode_evaluation(
    samples: Sequence[Sample], image_size: int, workers: int, tick: Callable[[int], None]
) -> Store:
    """Held-out images, decoded."""
    return decode(evaluation_stream(samples, image_size, workers), tick)
