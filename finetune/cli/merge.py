"""`finetune merge`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from finetune.cli.command import Command
from finetune.cli.options import FOLDER


@click.command(cls=Command, examples=("finetune merge shards/shard-000 shards/shard-001 --out runs/whole",))
@click.argument("runs", nargs=-1, required=True, type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="New run folder.")
def merge(runs: tuple[Path, ...], out: Path) -> Mapping[str, Any]:
    """Merge RUNS, the shards of one experiment, into one run folder.

    They may differ only in variants and seeds.
    """
    from finetune.run.merge import merge_runs
    from finetune.system.console import Reporter

    return merge_runs(runs, out, Reporter())
