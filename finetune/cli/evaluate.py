"""`finetune evaluate`."""

from __future__ import annotations

from pathlib import Path

import click

from finetune.cli.command import Command
from finetune.cli.options import FOLDER, checked_threads, option
from finetune.config.names import dataset_of


@click.command(cls=Command, examples=("finetune evaluate runs/photos-TIME --output fresh",))
@click.argument("run", type=FOLDER)
@click.option("--output", type=FOLDER, required=True, help="Folder for the predictions.")
@click.option(
    "--dataset",
    help="The run's images: a data set or a folder.  [default: as in the run's config.toml]",
)
@option("data_root")
@option("device")
@checked_threads
def evaluate(
    run: Path, output: Path, dataset: str | None, data_root: str | None, device: str | None, threads: int
) -> None:
    """Recompute the predictions of RUN from its checkpoints, for the grader to compare."""
    from finetune.evidence.reevaluate import evaluate_run
    from finetune.system.console import Reporter

    evaluate_run(
        run,
        output,
        Reporter(),
        dataset=None if dataset is None else dataset_of(dataset),
        data_root=data_root,
        device=device or "auto",
        threads=threads,
    )
