"""`finetune export`."""

from __future__ import annotations

from pathlib import Path

import click

from finetune.cli.command import Command
from finetune.cli.options import FOLDER, option, takes_model


@click.command(cls=Command, examples=("finetune export runs/photos-TIME --format onnx --out model",))
@takes_model
@click.option(
    "--format",
    "form",
    type=click.Choice(["onnx", "torchscript", "safetensors"]),
    default="onnx",
    show_default=True,
    help="File format of the network.",
)
@click.option("--out", type=FOLDER, help="Folder to write.  [default: RUN/export/VARIANT-seedN-FORMAT]")
@option("threads")
def export(
    run: Path, variant: str | None, seed: int | None, form: str, out: Path | None, threads: int | None
) -> None:
    """Write a network of RUN as a file for other programs, with a model card.

    Classes, preprocessing and calibration are in the file's metadata. ONNX needs pip install
    "finetune[export]".
    """
    from finetune.system.host import choose_threads

    # Before PyTorch is imported, whose OpenMP prints a warning of its own.
    n_threads = choose_threads(threads)
    from finetune.run.export import export as exported
    from finetune.run.folder import RunFolder
    from finetune.run.trained import open_model

    model = open_model(run, variant, seed, "cpu", n_threads)
    if model.why:
        click.echo(model.why, err=True)
    for path in exported(model, RunFolder(run), form, out or run / "export" / f"{model.run.name}-{form}"):
        click.echo(path)
