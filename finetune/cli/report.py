"""`finetune report`."""

from __future__ import annotations

from pathlib import Path

import click

from finetune.cli.command import Command
from finetune.cli.options import FOLDER

COMPARISON = Path("comparison.html")


@click.command(
    cls=Command,
    examples=(
        "finetune report runs/photos-TIME",
        "finetune report runs/one runs/other --out comparison.html",
    ),
)
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=FOLDER)
@click.option("--out", type=FOLDER, help="The file.  [default: RUN/report.html; of several, comparison.html]")
def report(runs: tuple[Path, ...], out: Path | None) -> None:
    """Write the report of RUN as one HTML file, or a comparison of several.

    Each RUN is a run folder. The page is what `finetune train` writes at the end of a run: verdict, curves,
    differences, mistakes, classes and set-up. It needs neither network nor scripts.
    """
    from finetune.report.judged import judged
    from finetune.report.page import REPORT_NAME, write_report

    if out is None:
        folder = runs[0] if runs[0].is_dir() else runs[0].parent
        out = folder / REPORT_NAME if len(runs) == 1 else COMPARISON
    write_report(judged(runs), out)
    click.echo(f"Report: {out}")
