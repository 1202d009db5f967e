"""What a person sees while it runs: progress bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table


def printable(text: str) -> str:
    """A name without characters that control a terminal or start a new line: they appear as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class Reporter:
    """Prints what happens; everything else hands it facts and prints nothing itself.

    Args:
        console: None means standard output.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)

    def say(self, text: str) -> None:
        """Print text unwrapped and without markup; names in it cannot control the terminal."""
        text = "\n".join(printable(line) for line in text.split("\n"))
        self.console.print(text, markup=False, soft_wrap=True)

    def table(self, table: Table) -> None:
        """Print a table; outside a terminal, as wide as it needs to be."""
        if not self.console.is_terminal:
            self.console.width = max(self.console.width, 160)
        self.console.print(table)

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a progress bar over `total` images, in a terminal only; yields a function that advances it."""
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        ) as progress:
            task = progress.add_task(label, total=total)
            yield lambda n: progress.advance(task, n)


class _Output(io.FileIO):
    """Standard output or error; discards output once its reader is gone or its disk is full."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            if not isinstance(error, BrokenPipeError) and self.fileno() == 1:
                sys.stderr.write(f"The rest of the output is lost: {error.strerror}.\n")
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return len(data)


def survive_closed_pipes() -> None:
    """Let `finetune train | head` train to the end: output that cannot be written is discarded.

    By replacing the streams, since warnings, progress bars of libraries and tracebacks use them too.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and stream is getattr(sys, f"__{name}__"):
            raw = _Output(stream.fileno(), "w", closefd=False)
            setattr(
                sys,
                name,
                io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, stream.errors, line_buffering=True),
            )
