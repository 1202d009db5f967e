"""How alike the losses of separately trained networks are: the calibration of `grader/checks/kinship.py`.

    python -m tests.benchmarks.kinships FOLDER [NAME...]       # many small honest runs
    python -m tests.benchmarks.kinship_rates FOLDER [RUN...]   # what they share, for docs/detection.md

Each experiment is one submission: its variants with its seeds, on the same held-out images.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from grader.evidence.gathered import Evidence
from grader.submission.predictions import Predictions
from grader.submission.record import SPLITS

DATA = Path(__file__).parents[3] / "shared/data"
DIGITS = {"preset": "smoke"}
FLOWERS = {"dataset": "flowers102", "data_root": str(DATA), "split": "70-15-15", "weights": "bundled"}
FLOWERS |= {"batch_size": 32}
PHOTOS = {"weights": "bundled", "batch_size": 32}
INSECTS = {**PHOTOS, "dataset": str(DATA / "hymenoptera"), "split": "50-25-25"}
CLOTHES = {**PHOTOS, "dataset": str(DATA / "clothing")}
LADDER = {"preset": "depth", "variants": "fc,C,layer3-up,layer1-up,B"}

EXPERIMENTS: dict[str, Mapping[str, Any]] = {
    "digits": {**DIGITS, "epochs": 4, "seeds": 6},
    "digits, long": {**DIGITS, "epochs": 10, "seeds": 3},
    "digits, one epoch": {**DIGITS, "epochs": 1, "seeds": 8},
    "digits, 100 images": {**DIGITS, "subset": 10, "epochs": 5, "batch_size": 20, "seeds": 6},
    "digits, all": {**DIGITS, "subset": 200, "epochs": 2, "seeds": 3},
    "digits, 24 px, fp32": {**DIGITS, "image_size": 24, "precision": "fp32", "epochs": 3, "seeds": 5},
    "digits, rate 0.0001": {**DIGITS, "lr": 1e-4, "epochs": 2, "seeds": 4},
    "digits, rate 0.001": {**DIGITS, "lr": 1e-3, "epochs": 4, "seeds": 5},
    "digits, rate 0.1": {**DIGITS, "lr": 0.1, "epochs": 3, "seeds": 6},
    "digits, rates of their own": {**DIGITS, "lr": {"A": 0.06, "B": 0.02, "C": 0.1}, "epochs": 3, "seeds": 6},
    "digits, longer A": {**DIGITS, "variants": "A,B,C", "longer_scratch": 3, "epochs": 2, "seeds": 4},
    "digits, ladder": {**DIGITS, **LADDER, "dataset": "digits", "weights": "bundled", "subset": 27}
    | {"epochs": 3, "batch_size": 64, "lr": 0.02, "image_size": 32, "seeds": 4},
    "digits, ladder, rate 0.001": {**LADDER, "dataset": "digits", "weights": "bundled", "subset": 27}
    | {"epochs": 2, "batch_size": 64, "lr": 0.001, "image_size": 32, "seeds": 2},
    "flowers": {**FLOWERS, "subset": 4, "image_size": 32, "epochs": 5, "seeds": 4},
    "flowers, 48 px, more": {**FLOWERS, "subset": 10, "image_size": 48, "epochs": 4, "seeds": 2},
    "flowers, ladder": {**FLOWERS, **LADDER, "subset": 4, "image_size": 32, "epochs": 5, "seeds": 3},
    "insects, 48 px": {**INSECTS, "image_size": 48, "epochs": 4, "seeds": 6},
    "insects, 64 px, long": {**INSECTS, "image_size": 64, "epochs": 6, "seeds": 3},
    "insects, rate 0.003": {**INSECTS, "image_size": 48, "lr": 0.003, "epochs": 3, "seeds": 6},
    "clothes": {**CLOTHES, "subset": 30, "image_size": 48, "epochs": 4, "seeds": 5},
    "clothes, more": {**CLOTHES, "subset": 80, "image_size": 48, "epochs": 3, "seeds": 3},
    "digits, rate 1": {**DIGITS, "lr": 1.0, "epochs": 2, "seeds": 4},
    "digits, rate 0.000001": {**DIGITS, "lr": 1e-6, "epochs": 1, "seeds": 3},
    "digits, ladder, rate 0.000001": {**DIGITS, **LADDER, "dataset": "digits", "weights": "bundled"}
    | {"subset": 27, "epochs": 1, "batch_size": 64, "lr": 1e-6, "image_size": 32, "seeds": 2},
    "flowers, rate 1": {**FLOWERS, "subset": 6, "image_size": 32, "lr": 1.0, "epochs": 3, "seeds": 4},
    "flowers, rate 0.3": {**FLOWERS, "subset": 20, "image_size": 32, "lr": 0.3, "epochs": 2, "seeds": 3},
    "insects, rate 1": {**INSECTS, "image_size": 32, "lr": 1.0, "epochs": 3, "seeds": 4},
    "clothes, rate 1": {**CLOTHES, "subset": 60, "image_size": 32, "lr": 1.0, "epochs": 2, "seeds": 3},
    "clothes, ladder": {**CLOTHES, **LADDER, "dataset": str(DATA / "clothing"), "weights": "bundled"}
    | {"subset": 30, "image_size": 48, "epochs": 3, "batch_size": 32, "lr": 0.02, "seeds": 3},
}
"""Options of `finetune train` by name of the experiment."""


def train(options: Mapping[str, Any], path: Path) -> None:
    """Train all runs of an experiment and store what the best epochs predict."""
    import torch

    from finetune.cli.options import configure
    from finetune.distributed.world import SingleProcess
    from finetune.run.fit import begin
    from finetune.run.prepare import prepare
    from finetune.training.features import FrozenPrefix
    from finetune.training.trainer import Trainer
    from tests.builders.runs import RecordingReporter

    prepared = prepare(configure({"threads": 1, **options}), RecordingReporter(), SingleProcess())
    config = prepared.config
    names, seeds, inits, found = [], [], [], []
    for seed in config.seed_list:
        for variant in config.variants:
            rate = variant.lr or config.recipe.lr
            recipe = replace(config.recipe, epochs=config.epochs_of(variant))
            network, _, _ = begin(prepared, variant, seed, rate)
            network.to(memory_format=torch.channels_last)
            prefix = FrozenPrefix(network, recipe, config.precision)
            trainer = Trainer(network, prepared.images, recipe, prefix, peak=rate, seed=seed, workers=1)
            trained = trainer.run(lambda _: None)
            if trained.best_predictions is None:
                continue
            names.append(variant.name)
            seeds.append(seed)
            inits.append(variant.init)
            found.append(trained.best_predictions)
    arrays = {
        f"{column}_{split}": np.stack([getattr(predictions[split], column) for predictions in found])
        for split in SPLITS
        for column in ("predicted", "nll", "confidence")
    }
    labels = {f"labels_{split}": prepared.images.held_out[split][1].numpy() for split in SPLITS}
    n_classes = len(prepared.splits.train.class_counts)
    np.savez_compressed(path, names=names, seeds=seeds, inits=inits, n_classes=n_classes, **labels, **arrays)


def evidence_of(path: Path) -> Evidence:
    """An experiment as the grader sees it, as far as kinship goes."""
    with np.load(path) as stored:
        data = {name: stored[name] for name in stored.files}
    runs, predictions = [], {}
    for i, (name, seed, init) in enumerate(zip(data["names"], data["seeds"], data["inits"], strict=True)):
        run = SimpleNamespace(
            name=f"{name}-seed{seed}", variant=name, seed=int(seed), init=str(init), best=1, best_epoch=None
        )
        runs.append(run)
        for split in SPLITS:
            ids = tuple(f"{split}-{n}" for n in range(len(data[f"labels_{split}"])))
            predictions[run.name, split] = Predictions(
                ids,
                data[f"labels_{split}"],
                data[f"predicted_{split}"][i],
                data[f"nll_{split}"][i].astype(np.float64),
            )
    results = SimpleNamespace(
        classes=range(int(data["n_classes"])),
        runs=runs,
        has_head=lambda _: False,
        weights=None,
        path=path.stem,
    )
    return Evidence(cast("Any", results), predictions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="of experiments; all if none is given")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.names or EXPERIMENTS:
        path = options.folder / f"{name}.npz"
        if not path.exists():
            began = time.perf_counter()
            train(EXPERIMENTS[name], path)
            print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
