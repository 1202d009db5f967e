"""`finetune layers`."""

from __future__ import annotations

import click

from finetune.cli.command import Command
from finetune.config.presets import load_preset


@click.command(cls=Command, examples=("finetune layers --variant c --classes 10",))
@click.option("--variant", help="Show only this variant of the preset.  [default: all]")
@click.option(
    "--classes", type=click.IntRange(min=2), default=102, show_default=True, help="Number of classes."
)
@click.option("--preset", default="flowers102", show_default=True, help="Preset whose variants to show.")
def layers(variant: str | None, classes: int, preset: str) -> None:
    """List every parameter: name, shape, size, and which variants train it. Needs no images."""
    config = load_preset(preset)
    if variant is not None:
        config = config.pick(variant)
    from finetune.network.layers import layer_table
    from finetune.system.console import Reporter

    Reporter().table(layer_table(config.variants, classes))
