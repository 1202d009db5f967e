"""`finetune presets`."""

from __future__ import annotations

import click

from finetune.cli.command import Command
from finetune.config.presets import preset_names


@click.command(cls=Command)
def presets() -> None:
    """List the presets that come with finetune."""
    for name, description in preset_names().items():
        click.echo(f"{name:<12}{description}")
