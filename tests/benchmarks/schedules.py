"""Why does C score less than torchvision's reference? Schedule, rate and BatchNorm statistics, one by one.

    python -m tests.benchmarks.schedules OUT [--data DATA] [--seeds 3] [--table]

On Flowers-102 (official split, 64 px, 5 epochs, bundled weights) it trains C, and C with adapting statistics,
with our schedule and at a constant rate, and the reference's own loop with the same seeds. Complete run
folders are not trained again. It prints accuracies, and the differences seed by seed.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev
from unittest import mock

from rich.console import Console

from finetune.config.experiment import ExperimentConfig, Recipe, Variant
from finetune.run.experiment import run_experiment
from finetune.system.console import Reporter
from finetune.system.signals import StopRequest
from finetune.training import trainer
from tests.benchmarks.measure import DATA, theirs

CELLS = (
    ("cosine", 0.01),
    ("constant", 0.01),
    ("cosine", 0.02),
    ("cosine", 0.1),
    ("constant", 0.1),
)
"""Schedule and peak rate: the reference's; twice it, as a cosine has half its peak in the mean; C's best."""

ROWS = {"C": "frozen", "C-adapt": "adapting"}
REFERENCE_RATE = 0.01

Found = dict[str, list[float]]
"""Test accuracies of the epochs chosen on validation, percent, one per seed."""


def constant(_step: int, _steps_per_epoch: int, _recipe: Recipe, peak: float) -> float:
    """The learning rate of every step, as the reference has it for its first 30 epochs."""
    return peak


def train(out: Path, schedule: str, rate: float, data: Path, seeds: int) -> Path:
    """Train both rows in one cell, unless its folder is complete; returns the folder."""
    folder = out / f"{schedule}-{rate:g}"
    is_begun = (folder / "config.toml").is_file()
    if is_begun and not (folder / "state").exists():
        return folder
    config = ExperimentConfig(
        dataset="flowers102",
        data_root=str(data),
        split="official",
        weights="bundled",
        seeds=seeds,
        variants=tuple(
            Variant(name=name, init="pretrained", train=("layer4", "fc"), norm=norm)
            for name, norm in (("C", "frozen"), ("C-adapt", "adapt"))
        ),
        recipe=Recipe(epochs=5, image_size=64, lr=rate, statistics="running"),
    )
    rule = constant if schedule == "constant" else trainer.learning_rate
    with mock.patch.object(trainer, "learning_rate", rule):
        run_experiment(config, folder, Reporter(Console(stderr=True)), StopRequest(), resume=is_begun)
    return folder


def accuracies(folder: Path) -> Found:
    """Test accuracies of each row in a run folder."""
    found: Found = {}
    for run in json.loads((folder / "results.json").read_text("utf-8"))["runs"]:
        best = run["epochs"][run["best_epoch"] - 1]["test"]
        found.setdefault(run["variant"], []).append(100 * best["n_correct"] / best["n_samples"])
    return found


def reference(out: Path, data: Path, seeds: int) -> list[float]:
    """Test accuracies of C in the reference's loop, which are kept."""
    kept = out / "reference.json"
    values: list[float] = json.loads(kept.read_text("utf-8")) if kept.is_file() else []
    options = f"--dataset flowers102 --data-root {data} --split official --image-size 64 --epochs 5"
    for seed in range(len(values), seeds):
        words = f"{options} --weights bundled --variants C --workers 0 --lr {REFERENCE_RATE} --seed {seed}"
        values.append(100 * theirs("reference", words.split())["variants"]["C"]["test_accuracy"])
        kept.write_text(json.dumps(values), "utf-8")
    return values


def table(found: dict[tuple[str, float], Found], plain: list[float]) -> Iterator[str]:
    """Accuracies by cell and row, then the reference's."""
    yield "| schedule | peak rate | statistics of frozen layers | C, test, mean (seeds) |"
    yield "| --- | --- | --- | --- |"
    for (schedule, rate), by_row in found.items():
        for name, statistics in ROWS.items():
            yield f"| {schedule} | {rate:g} | {statistics} | {shown(by_row[name])} |"
    if plain:
        yield f"| constant | {REFERENCE_RATE:g} | adapting; torchvision's reference | {shown(plain)} |"


def differences(found: dict[tuple[str, float], Found], plain: list[float]) -> Iterator[str]:
    """What each step from ours towards the reference changes, seed by seed."""
    for cell, by_row in found.items():
        yield f"{cell[0]} {cell[1]:g}: adapting less frozen {paired(by_row['C-adapt'], by_row['C'])}"
    for (first, second), row in itertools.product(
        ((("constant", 0.01), ("cosine", 0.01)), (("constant", 0.01), ("cosine", 0.02)),
         (("constant", 0.1), ("cosine", 0.1))), ROWS,
    ):  # fmt: skip
        if {first, second} <= found.keys():
            gap = paired(found[first][row], found[second][row])
            yield f"{row}: {first[0]} {first[1]:g} less {second[0]} {second[1]:g} {gap}"
    if plain and ("constant", REFERENCE_RATE) in found:
        gap = paired(plain, found["constant", REFERENCE_RATE]["C-adapt"])
        yield f"reference less ours at the same constant rate, statistics adapting: {gap}"


def shown(values: list[float]) -> str:
    return f"{fmean(values):.1f}% ({', '.join(f'{v:.1f}' for v in values)})"


def paired(first: list[float], second: list[float]) -> str:
    apart = [a - b for a, b in zip(first, second, strict=True)]
    error = f", standard error {stdev(apart) / len(apart) ** 0.5:.1f}" if len(apart) > 1 else ""
    return f"{fmean(apart):+.1f} points{error}".replace("-", "−")


def main() -> None:
    """Train what is missing and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="only the tables of what has been trained")
    options = parser.parse_args()
    found = {}
    for schedule, rate in CELLS:
        folder = options.out / f"{schedule}-{rate:g}"
        if not options.table:
            folder = train(options.out, schedule, rate, options.data, options.seeds)
        if (folder / "results.json").is_file() and not (folder / "state").exists():
            found[schedule, rate] = accuracies(folder)
    plain = reference(options.out, options.data, 0 if options.table else options.seeds)
    print("\n".join([*table(found, plain), "", *differences(found, plain)]))  # noqa: T201


if __name__ == "__main__":
    main()
