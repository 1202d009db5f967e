"""A trainer on random pixels, without data set or run folder."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from finetune.config.experiment import STANDARD_VARIANTS, Recipe, Variant
from finetune.data.prepare import Images
from finetune.data.store import StoredImages
from finetune.network.resnet18 import build
from finetune.training.features import FrozenPrefix
from finetune.training.record import Epoch, Training
from finetune.training.trainer import Trainer
from tests.builders.images import stored

RECIPE = Recipe(epochs=2, batch_size=8, image_size=16, lr=0.05)
SIDE = 20


def random_images(
    n_train: int = 20, n_held_out: int = 9, seed: int = 0, image_size: int = RECIPE.image_size
) -> Images:
    """Random pixels with random labels out of four."""
    rng = np.random.default_rng(seed)
    sizes = np.tile(np.array([[SIDE, SIDE]]), (n_train, 1))
    length = SIDE * SIDE * 3
    pixels = rng.integers(0, 256, n_train * length, dtype=np.uint8)

    def held_out() -> tuple[StoredImages, torch.Tensor]:
        shape = (n_held_out, image_size, image_size, 3)
        return stored(torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))), labels(n_held_out)

    def labels(n: int) -> torch.Tensor:
        return torch.from_numpy(rng.integers(0, 4, n))

    return Images(StoredImages(pixels, sizes), labels(n_train), {"val": held_out(), "test": held_out()})


def tiny_trainer(variant: Variant = STANDARD_VARIANTS[0], recipe: Recipe = RECIPE, **options: Any) -> Trainer:
    """A trainer of four classes whose pretrained weights are random.

    Options of `Trainer` and `FrozenPrefix` as keywords, and the images and the device.
    """
    start = build(Variant(name="P", init="random", train="all"), 4, 99, None).state_dict()
    defaults = {
        "peak": recipe.lr,
        "seed": 0,
        "workers": 1,
        "images": random_images(image_size=recipe.image_size),
        "device": torch.device("cpu"),
    }
    options = defaults | options
    network = build(variant, 4, options["seed"], start)
    network.to(options.pop("device")).to(memory_format=torch.channels_last)
    of_prefix = {"precision": "fp32", "views": None, "cache": None}
    prefix = FrozenPrefix(network, recipe, **{n: options.pop(n, value) for n, value in of_prefix.items()})
    return Trainer(network, options.pop("images"), recipe, prefix, **options)


def ignore_epoch(_: Epoch) -> None:
    """What `Trainer.run` may call after each epoch."""


def epochs_without_times(training: Training) -> list[dict[str, Any]]:
    """The recorded epochs without durations."""
    rows = [dataclasses.asdict(e) for e in training.epochs]
    return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in rows]
