"""Image files, folders of them, and the same decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from finetune.data.datasets import Sample
from finetune.data.splits import Splits
from finetune.data.store import StoredImages, decode
from finetune.data.stream import evaluation_stream, training_stream


def photo(path: Path, seed: int, width: int = 24, height: int = 20, **options: Any) -> Path:
    """A small color image file of random pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def image_tree(root: Path, counts: Mapping[str, int], first_seed: int = 0) -> Path:
    """Class folders with that many images, no two alike; names may include a split: "train/cat"."""
    seed = first_seed
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            photo(root / name / f"{number:03d}.png", seed)
            seed += 1
    return root


def decode_training(
    samples: Sequence[Sample], image_size: int, workers: int, tick: Callable[[int], None]
) -> StoredImages:
    """Training images, decoded."""
    return decode(training_stream(samples, image_size, workers), tick)


def decode_evaluation(
    samples: Sequence[Sample], image_size: int, workers: int, tick: Callable[[int], None]
) -> StoredImages:
    """Held-out images, decoded."""
    return decode(evaluation_stream(samples, image_size, workers), tick)


def stored(pixels: torch.Tensor) -> StoredImages:
    """Images of one size [n x height x width x 3] uint8, stored in memory."""
    n, height, width, _ = pixels.shape
    return StoredImages(pixels.numpy().reshape(-1), np.tile(np.array([[height, width]]), (n, 1)))


def fingerprints(splits: Splits) -> list[str]:
    """Those of training, validation and test."""
    return [split.fingerprint for split in splits.by_name.values()]
