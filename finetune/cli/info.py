"""`finetune info`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from finetune.cli.command import Command
from finetune.cli.options import STANDARD, option


@click.command(cls=Command, examples=("finetune info --json | jq .gpus",))
@option("data_root")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for programs.")
def info(data_root: str | None, as_json: bool) -> None:
    """Show versions, devices, weights, data sets, the cache, and what is missing.

    Nothing is downloaded.
    """
    from finetune.run.info import describe, lines
    from finetune.system.console import printable

    found = describe(Path(data_root or STANDARD.data_root))
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        for line in lines(found):
            click.echo(printable(line))
