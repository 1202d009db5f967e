"""Training and evaluation of A, B, C and C with cached features, without and with torch.profiler.

    python -m tests.benchmarks.gpu.steps OPTIONS

prints one line of JSON. The share of the time in which the GPU is busy is its time per step, from the trace,
over the time of a step without the profiler, which slows the CPU down but not the kernels.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from finetune.config.experiment import STANDARD_VARIANTS, ExperimentConfig, Recipe
from finetune.distributed.world import SingleProcess
from finetune.run import fit
from finetune.run.prepare import Prepared, prepare
from finetune.system.console import Reporter
from finetune.training.record import Pass
from finetune.training.trainer import Trainer
from tests.benchmarks.gpu.trace import summarize
from tests.benchmarks.job import options

CASES = {"A": ("A", None), "B": ("B", None), "C live": ("C", None), "C cached": ("C", 1)}
PASSES = 5


def trainer_of(prepared: Prepared, name: str, views: int | None) -> Trainer:
    (variant,) = (v for v in STANDARD_VARIANTS if v.name == name)
    config = dataclasses.replace(prepared.config, cache_views=views)
    prepared = dataclasses.replace(prepared, config=config)
    network, start, _ = fit.begin(prepared, variant, 0, config.recipe.lr)
    return fit.trainer_of(prepared, config.recipe.epochs, start, network)


def one_pass(trainer: Trainer) -> float:
    """Seconds of a pass over the training split, with the wait for the device's last step."""
    trainer.training.current = Pass()
    began = time.perf_counter()
    trainer._pass(1)
    return time.perf_counter() - began


def evaluation(trainer: Trainer) -> float:
    """Seconds of an evaluation of validation and test."""
    began = time.perf_counter()
    trainer._evaluate()
    return time.perf_counter() - began


def traced(trainer: Trainer) -> dict[str, Any]:
    """What the trace of a pass says."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if trainer.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        one_pass(trainer)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return summarize(json.loads(path.read_text("utf-8")), trainer.steps_per_epoch)


def measured(prepared: Prepared, name: str, views: int | None) -> dict[str, Any]:
    trainer = trainer_of(prepared, name, views)
    if trainer.device.type == "cuda":
        trainer._warm_up()
    one_pass(trainer)
    evaluation(trainer)
    images, held_out = prepared.images, prepared.images.held_out.values()
    seconds = sorted(one_pass(trainer) for _ in range(PASSES))
    evaluated = sorted(evaluation(trainer) for _ in range(PASSES))
    found = traced(trainer)
    step_us = 1e6 * seconds[PASSES // 2] / trainer.steps_per_epoch
    return {
        **found,
        "n": PASSES,
        "images_per_second": [len(images.train) / s for s in seconds],
        "evaluated_per_second": [sum(len(labels) for _, labels in held_out) / s for s in evaluated],
        "step_us": step_us,
        "busy": found["gpu_us"] / step_us if found["gpu_us"] else None,
        "precision": prepared.config.precision,
    }


def main() -> None:
    args = options()
    config = ExperimentConfig(
        dataset=args.dataset,
        data_root=str(args.data_root),
        split=args.split,
        subset=args.subset,
        weights=args.weights,
        device=args.device,
        recipe=Recipe(epochs=args.epochs, batch_size=args.batch_size, lr=args.lr, image_size=args.image_size),
    )
    prepared = prepare(config, Reporter(Console(quiet=True)), SingleProcess())
    cases = {case: measured(prepared, *row) for case, row in CASES.items()}
    sys.stdout.write(json.dumps(cases) + "\n")


if __name__ == "__main__":
    main()
