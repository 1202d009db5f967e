"""Where the time of a short run goes, stage by stage."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rich.table import Table

from finetune.config.experiment import ExperimentConfig
from finetune.run.experiment import run_experiment
from finetune.run.records import Document, Shard
from finetune.system.console import Reporter
from finetune.system.signals import StopRequest
from grader.submission.record import Results, results_from


def profile_run(config: ExperimentConfig, reporter: Reporter, stop: StopRequest) -> Document:
    """Train in a temporary folder and show where the time went.

    Args:
        config: what to train.
        reporter: receives the progress of the run, then the table of stages.
        stop: asked whether to end early.

    Returns:
        The results, whose files are deleted.

    Raises:
        FinetuneError: as `run_experiment`.
        Stopped: a signal came.
    """
    pairs = tuple((v.name, seed) for seed in config.seed_list for v in config.variants)
    with tempfile.TemporaryDirectory(prefix="finetune-profile-") as folder:
        # As a shard, which draws no curves and prints no results.
        record = run_experiment(config, Path(folder), reporter, stop, shard=Shard(pairs))
    reporter.say(f"Precision: {record['config']['precision']}")
    reporter.table(stages_table(results_from(record)))
    return record


def stages_table(results: Results) -> Table:
    """Seconds, percentage of the total and images per second of each stage."""
    total = results.timings["total_seconds"]
    table = Table(title=f"{total:.1f} s")
    table.add_column("stage")
    for name in ("seconds", "of total", "images/s"):
        table.add_column(name, justify="right")
    for name, seconds, n_images in stages(results):
        rate = f"{n_images / seconds:,.0f}" if n_images and seconds else ""
        table.add_row(name, f"{seconds:.2f}", f"{seconds / total:.1%}", rate)
    return table


def stages(results: Results) -> list[tuple[str, float, int]]:
    """Name, seconds and images of each stage; the seconds add up to the run's total."""
    timings, n_samples = results.timings, {name: s.n_samples for name, s in results.splits.items()}
    rows = [
        ("start-up", timings["start_seconds"], 0),
        ("download", timings["download_seconds"], 0),
        ("decoding, or opening the cache", timings["decode_seconds"], sum(n_samples.values())),
    ]
    for run in results.runs:
        name = f"{run.variant} seed {run.seed}"
        train = sum(e.train_seconds for e in run.epochs)
        wait = sum(e.data_wait_seconds for e in run.epochs)
        evaluation = sum(e.evaluation_seconds for e in run.epochs)
        rows += [
            (f"{name}: waiting for images", wait, 0),
            (f"{name}: training steps", train - wait, run.budget.images),
            (f"{name}: evaluation", evaluation, len(run.epochs) * (n_samples["val"] + n_samples["test"])),
            (f"{name}: checkpoints and the rest", run.total_seconds - train - evaluation, 0),
        ]
    rest = timings["total_seconds"] - sum(seconds for _, seconds, _ in rows)
    return [*rows, ("between variants", rest, 0)]
