"""Where the time of a short run goes, stage by stage."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from finetune.config.experiment import ExperimentConfig
from finetune.data.splits import summary_lines
from finetune.run.experiment import run_experiment
from finetune.system.console import Reporter
from finetune.system.signals import StopRequest


def profile_run(config: ExperimentConfig, reporter: Reporter, stop: StopRequest) -> dict[str, Any]:
    """Train in a temporary folder and show where the time went.

    Args:
        config: what to train.
        reporter: told the stages.
        stop: asked whether to end early.

    Returns:
        The results, whose files are gone.

    Raises:
        FinetuneError: as `run_experiment`.
        Stopped: a signal came.
    """
    with tempfile.TemporaryDirectory(prefix="finetune-profile-") as folder:
        record = run_experiment(config, Path(folder), Reporter(Console(quiet=True)), stop)
    machine, precision = record["environment"], record["config"]["precision"]
    reporter.say(f"{machine['device_name']}, {machine['threads']} threads, {precision} precision")
    n_samples = {name: split["n_samples"] for name, split in record["dataset"]["splits"].items()}
    for line in summary_lines(record["dataset"]["classes"], n_samples, record["config"]["split"]):
        reporter.say(line)
    reporter.table(stages_table(record))
    return record


def stages_table(record: dict[str, Any]) -> Table:
    """Seconds, share and rate of each stage of a run."""
    total = record["timings"]["total_seconds"]
    table = Table(title=f"{total:.1f} s")
    table.add_column("stage")
    for name in ("seconds", "share", "images/s"):
        table.add_column(name, justify="right")
    for name, seconds, n_images in stages(record):
        rate = f"{n_images / seconds:,.0f}" if n_images and seconds else ""
        table.add_row(name, f"{seconds:.2f}", f"{seconds / total:.1%}", rate)
    return table


def stages(record: dict[str, Any]) -> list[tuple[str, float, int]]:
    """Name, seconds and images of each stage; the seconds add up to the run's total."""
    timings, splits = record["timings"], record["dataset"]["splits"]
    rows = [
        ("start-up", timings["start_seconds"], 0),
        ("download", timings["download_seconds"], 0),
        ("decoding, or opening what was kept", timings["decode_seconds"], _images(splits, *splits)),
    ]
    for run in record["runs"]:
        epochs, name = run["epochs"], f"{run['variant']} seed {run['seed']}"
        train, wait, evaluation = (
            sum(e[f"{kind}_seconds"] for e in epochs) for kind in ("train", "data_wait", "evaluation")
        )
        rows += [
            (f"{name}: waiting for images", wait, 0),
            (f"{name}: training steps", train - wait, run["budget"]["images"]),
            (f"{name}: evaluation", evaluation, len(epochs) * _images(splits, "val", "test")),
            (f"{name}: checkpoints and the rest", run["total_seconds"] - train - evaluation, 0),
        ]
    rest = timings["total_seconds"] - sum(seconds for _, seconds, _ in rows)
    return [*rows, ("between variants", rest, 0)]


def _images(splits: dict[str, Any], *names: str) -> int:
    return sum(splits[name]["n_samples"] for name in names)
