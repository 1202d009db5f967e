"""`finetune predict`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from finetune.cli.command import Command
from finetune.cli.model import open_model, takes_model
from finetune.cli.options import FOLDER, option

if TYPE_CHECKING:
    from finetune.inference.predict import Prediction

EXIT_UNREADABLE = 1


@click.command(
    cls=Command,
    examples=(
        "finetune predict runs/photos-TIME new-photos",
        "finetune predict runs/photos-TIME a.jpg --top 1 --format json",
    ),
)
@takes_model
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=FOLDER)
@click.option(
    "--top", type=click.IntRange(min=1), default=5, show_default=True, help="Classes listed for each image."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="table, JSON Lines (an object for each file), or CSV.",
)
@click.option("--out", type=FOLDER, help="File to write.  [default: standard output]")
@option("device")
def predict(paths: tuple[Path, ...], top: int, form: str, out: Path | None, **chosen: Any) -> int:
    """Predict the classes of images with a network of RUN.

    Each PATH is an image, or a folder whose images are found at any depth. Probabilities are calibrated: the
    logits are divided by the temperature fitted on validation.

    Exit codes: 0 success; 1 some files cannot be read (they are named on standard error); 2 invalid input.
    """
    from finetune.data.inputs import require_paths
    from finetune.inference.listing import lines
    from finetune.inference.predict import predict as predicted
    from finetune.system.console import printable

    require_paths(paths)
    model = open_model(**chosen)
    n_bad = 0

    def noted(predictions: Iterator[Prediction]) -> Iterator[Prediction]:
        nonlocal n_bad
        for prediction in predictions:
            if prediction.problem is not None:
                n_bad += 1
                click.echo(f"Cannot read {printable(str(prediction.path))}: {prediction.problem}.", err=True)
            yield prediction

    with _opened(out) as file:
        for line in lines(noted(predicted(model, paths, top=top)), form):
            click.echo(line, file)
    return EXIT_UNREADABLE if n_bad else 0


@contextmanager
def _opened(out: Path | None) -> Iterator[TextIO | None]:
    """The file to write, which appears when it is complete; None means standard output."""
    if out is None:
        yield None
        return
    from finetune.system.files import publish, temporary

    with temporary(out) as partial:
        with partial.open("w", encoding="utf-8") as file:
            yield file
        publish(partial, out)
