"""`finetune replay`, which the grader calls."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from finetune.cli.command import Command
from finetune.cli.options import FOLDER, begin_training, option
from finetune.config.experiment import STANDARD_VARIANTS, ExperimentConfig


@click.command(cls=Command, hidden=True)
@click.argument("run", type=FOLDER)
@click.option("--output", type=FOLDER, required=True, help="JSON file to write, with the epochs as replayed.")
@click.option(
    "--passage",
    "passages",
    type=(str, int, int),
    multiple=True,
    metavar="NAME FIRST COUNT",
    help="A run such as A-seed0, its first epoch to train and how many; may be repeated.",
)
@click.option(
    "--trial",
    "trials",
    type=(int, int),
    multiple=True,
    metavar="INDEX COUNT",
    help="A trial's index in tuning.trials, and how many epochs to train from its start; may be repeated.",
)
@click.option(
    "--seconds",
    type=float,
    default=math.inf,
    help="Seconds to spend on training; what would take longer is left out, but never all.",
)
@option("dataset")
@option("data_root")
@option("weights")
@option("device")
def replay(run: Path, output: Path, device: str | None, **options: Any) -> None:
    """Train a few epochs of RUN, or of its trials, again, for the grader to compare."""
    begin_training(ExperimentConfig(variants=STANDARD_VARIANTS))  # before PyTorch is imported
    from finetune.evidence.replay import replay_run
    from finetune.system.console import Reporter

    replay_run(run, output, Reporter(), device=device or "auto", **options)
