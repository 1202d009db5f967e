"""`finetune export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from finetune.cli.command import Command
from finetune.cli.model import open_model, takes_model
from finetune.cli.options import FOLDER


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
def export(form: str, out: Path | None, **chosen: Any) -> None:
    """Write a network of RUN as a file for other programs, with a model card.

    Classes, preprocessing and calibration are in the file's metadata. ONNX needs pip install
    "finetune[export]".
    """
    from finetune.inference.export import export as exported

    model = open_model(**chosen)
    for path in exported(model, form, out or model.folder.path / "export" / f"{model.run.name}-{form}"):
        click.echo(path)
