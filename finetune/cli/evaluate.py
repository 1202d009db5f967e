"""`finetune evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from finetune.cli.command import Command
from finetune.cli.options import FOLDER, option
from finetune.config.dataset import dataset_of


@click.command(cls=Command, examples=("finetune evaluate runs/photos-TIME --output fresh",))
@click.argument("run", type=FOLDER)
@click.option("--output", type=FOLDER, required=True, help="Folder for the predictions.")
@click.option(
    "--dataset",
    help="The run's images: a data set or a folder.  [default: as in the run's config.toml]",
)
@option("data_root")
@option("device")
@option("threads")
def evaluate(
    run: Path,
    output: Path,
    dataset: str | None,
    device: str | None,
    threads: int | None,
    **options: Any,
) -> None:
    """Recompute the predictions of RUN from its checkpoints, for the grader to compare."""
    from finetune.system.host import choose_threads

    choose_threads(threads)  # before PyTorch is imported, whose OpenMP prints a warning of its own
    from finetune.run.reevaluate import evaluate_run
    from finetune.system.console import Reporter

    options["dataset"] = None if dataset is None else dataset_of(dataset)
    evaluate_run(run, output, Reporter(), device=device or "auto", threads=threads, **options)
