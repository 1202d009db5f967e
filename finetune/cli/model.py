"""The argument and the options that choose one of the networks of a run, and the network they choose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from finetune.cli.options import FOLDER, Command, checked_threads

if TYPE_CHECKING:
    from finetune.inference.trained import TrainedModel


def takes_model(command: Command) -> Command:
    """Give a command what `open_model` takes: RUN, --variant, --seed and --threads."""
    seed = click.option("--seed", type=int, help="Seed of the network.  [default: the best on validation]")
    variant = click.option(
        "--variant",
        help="Variant of the network.  [default: the one that the verdict favors, else the best on "
        "validation]",
    )
    decorated: Command = click.argument("run", type=FOLDER)(variant(seed(checked_threads(command))))
    return decorated


def open_model(
    run: Path, variant: str | None, seed: int | None, threads: int, device: str | None = "cpu"
) -> TrainedModel:
    """The network that the options choose; why it is that one goes to standard error."""
    from finetune.inference.trained import open_model as opened
    from finetune.run.folder import RunFolder

    model = opened(RunFolder(run), variant, seed, device or "auto", threads)
    if model.why:
        click.echo(model.why, err=True)
    return model
