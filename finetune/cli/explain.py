"""`finetune explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from finetune.cli.command import Command
from finetune.cli.model import open_model, takes_model
from finetune.cli.options import FOLDER, option


@click.command(
    cls=Command, examples=("finetune explain runs/photos-TIME photo.jpg --class rose --out rose.png",)
)
@takes_model
@click.argument("image", type=FOLDER)
@click.option("--class", "class_name", metavar="NAME", help="Class to explain.  [default: the most probable]")
@click.option(
    "--out", type=FOLDER, help="PNG file to write.  [default: IMAGE's name with -VARIANT.png, here]"
)
@option("device")
def explain(image: Path, class_name: str | None, out: Path | None, **chosen: Any) -> None:
    """Show where in IMAGE a network of RUN finds the evidence for a class (Grad-CAM).

    Needs pip install "finetune[explain]".
    """
    from finetune.inference.explain import explain as explained
    from finetune.system.console import printable
    from finetune.system.files import write_atomically

    model = open_model(**chosen)
    found = explained(model, image, class_name)
    out = out or Path(f"{image.stem}-{model.run.variant}.png")
    write_atomically(out, found.picture)
    click.echo(f"{printable(found.name)} {found.probability:.1%}: {printable(str(out))}")
    if found.stage != "layer4":
        click.echo(
            f"The map is of {found.stage}: layer4's is too coarse for images of {model.image_size} pixels.",
            err=True,
        )
