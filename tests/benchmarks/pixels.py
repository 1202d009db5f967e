"""What keeping training images at twice the input size changes, against crops cut from the original files.

    python -m tests.benchmarks.pixels FOLDER [--image-size 224] [--seeds 3] [--epochs 5]

It prints the difference between crops in gray levels, and the accuracy of both ways with the same seeds.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console

from finetune.config.experiment import ExperimentConfig, Recipe
from finetune.data import stream
from finetune.data.augment import crop, plan_epoch
from finetune.data.datasets import load_dataset
from finetune.data.store import decode
from finetune.data.stream import training_stream
from finetune.run.experiment import run_experiment
from finetune.system.console import Reporter
from finetune.system.signals import StopRequest

WHOLE = 1e9
"""In place of the ratio of stored to input size: keep the originals."""


def difference(folder: str, image_size: int, n: int = 200) -> None:
    """Print how far crops of stored images are from the same crops of the originals, gray levels of 255."""
    samples = load_dataset(f"imagefolder:{folder}", Path()).samples[:n]
    stored = decode(training_stream(samples, image_size, 2), lambda _: None)
    ratio, stream.TRAIN_RATIO = stream.TRAIN_RATIO, WHOLE
    original = decode(training_stream(samples, image_size, 2), lambda _: None)
    stream.TRAIN_RATIO = ratio
    plan = plan_epoch(0, 1, stored.sizes, Recipe(image_size=image_size))
    scale = np.tile((original.sizes / stored.sizes)[:, ::-1], 2).astype(np.float32)
    apart = []
    for i, box in enumerate(plan.boxes):
        ours = crop(stored.image(i), box, False, image_size).astype(int)
        theirs = crop(original.image(i), box * scale[i], False, image_size).astype(int)
        apart.append(np.abs(ours - theirs))
    each = np.array([a.mean() for a in apart])
    smaller = (original.sizes != stored.sizes).any(axis=1).mean()
    print(  # noqa: T201
        f"{len(samples)} photos at {image_size} px, {smaller:.0%} of them stored smaller than they are; "
        f"crops differ by {each.mean():.2f} gray levels in the mean, {np.median(each):.2f} in the median "
        f"photo, {each.max():.2f} in the worst"
    )


def accuracy(folder: str, image_size: int, seeds: int, epochs: int) -> None:
    """Print test accuracies of the chosen epochs, stored smaller and from the originals, seed by seed."""
    config = ExperimentConfig(
        dataset=f"imagefolder:{folder}",
        weights="bundled",
        seeds=seeds,
        store="memory",
        recipe=Recipe(image_size=image_size, epochs=epochs),
    )
    found: dict[str, list[list[float]]] = {}
    usual = stream.TRAIN_RATIO
    for ratio in (usual, WHOLE):
        stream.TRAIN_RATIO = ratio
        with tempfile.TemporaryDirectory() as out:
            os.environ["XDG_CACHE_HOME"] = f"{out}/cache"  # entries do not tell by which ratio they were made
            record = run_experiment(config, Path(out, "run"), Reporter(Console(quiet=True)), StopRequest())
        for run in record["runs"]:
            test = run["epochs"][run["best_epoch"] - 1]["test"]
            found.setdefault(run["variant"], [[], []])[ratio == WHOLE].append(
                100 * test["n_correct"] / test["n_samples"]
            )
    for variant, (stored, original) in found.items():
        apart = np.subtract(stored, original)
        print(  # noqa: T201
            f"{variant}: stored {np.round(stored, 1).tolist()}%, originals "
            f"{np.round(original, 1).tolist()}%; difference {apart.mean():+.1f} points, standard error "
            f"{apart.std(ddof=1) / len(apart) ** 0.5:.1f}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()
    difference(arguments.folder, arguments.image_size)
    accuracy(arguments.folder, arguments.image_size, arguments.seeds, arguments.epochs)
