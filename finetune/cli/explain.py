"""`finetune explain`."""

from __future__ import annotations

from pathlib import Path

import click

from finetune.cli.command import Command
from finetune.cli.options import FOLDER, option, takes_model


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
@option("threads")
def explain(
    run: Path,
    image: Path,
    variant: str | None,
    seed: int | None,
    class_name: str | None,
    out: Path | None,
    device: str | None,
    threads: int | None,
) -> None:
    """Show where in IMAGE a network of RUN finds the evidence for a class (Grad-CAM).

    Needs pip install "finetune[explain]".
    """
    from finetune.system.host import choose_threads

    # Before PyTorch is imported, whose OpenMP prints a warning of its own.
    n_threads = choose_threads(threads)
    from finetune.run.explain import explain as explained
    from finetune.run.trained import open_model
    from finetune.system.console import printable
    from finetune.system.files import write_atomically

    model = open_model(run, variant, seed, device or "auto", n_threads)
    if model.why:
        click.echo(model.why, err=True)
    found = explained(model, image, class_name)
    out = out or Path(f"{image.stem}-{model.run.variant}.png")
    write_atomically(out, found.picture)
    click.echo(f"{printable(found.name)} {found.probability:.1%}: {printable(str(out))}")
    if found.stage != "layer4":
        click.echo(
            f"The map is of {found.stage}: layer4's is too coarse for images of {model.image_size} pixels.",
            err=True,
        )
