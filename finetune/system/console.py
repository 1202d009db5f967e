"""What a person sees while it runs: bars in a terminal, plain lines elsewhere; and terminals as such."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table


def printable(text: str) -> str:
    """A name without characters that control a terminal or start a new line: they appear as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


STOPPING = "Stopping after this step (a second signal stops at once, without a checkpoint)..."


class Watched(Protocol):
    """What a live display shows of a job."""

    def render(self, width: int, stopping: bool, ended: bool = False) -> RenderableType:
        """The job as it stands, or as it stood when it `ended` early, for a terminal of that many columns."""

    def advance(self, n_images: int) -> None:
        """Count images that were trained on."""


class Reporter:
    """Prints what happens; everything else hands it facts and prints nothing itself.

    Args:
        console: None means standard output.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)

    @property
    def animates(self) -> bool:
        """Whether there is a terminal on which lines can be drawn again."""
        return self.console.is_terminal and not self.console.is_dumb_terminal

    @property
    def draws_bars(self) -> bool:
        """Whether progress bars are shown."""
        return self.animates

    def say(self, text: str) -> None:
        """Print text without markup, in a terminal wrapped at words; names in it cannot control it."""
        text = "\n".join(printable(line) for line in text.split("\n"))
        self.console.print(text, markup=False, soft_wrap=not self.animates)

    def detail(self, text: str) -> None:
        """Print a line about training, which a live display shows in its own way."""
        self.say(text)

    def warn(self, text: str) -> None:
        """Print what even those who want no output should know."""
        self.say(text)

    def answer(self, text: str) -> None:
        """Print a sentence of the verdict."""
        self.say(text)

    def doubts(self, lines: Sequence[str], in_short: str) -> None:  # noqa: ARG002 - for a quiet reporter
        """Print what does not hold or cannot be told, a line for each; `in_short` is all of it in one."""
        for line in lines:
            self.say(line)

    def event(self, name: str, facts: Mapping[str, Any]) -> None:
        """Take note of something that programs want to know; it has been printed in words."""

    def watching(self, job: Watched) -> AbstractContextManager[None]:  # noqa: ARG002 - a live display needs it
        """Show a job while the block runs, if this is a live display."""
        return nullcontext()

    def stopping(self) -> None:
        """Say that the job is about to stop; called by a signal's handler, in the middle of anything."""
        os.write(2, f"{STOPPING}\n".encode())  # not through a stream, which may be in use

    def table(self, table: Table) -> None:
        """Print a table; outside a terminal, as wide as it needs to be."""
        if not self.console.is_terminal:
            self.console.width = max(self.console.width, 160)
        self.console.print(table)

    def training(self, label: str, n_images: int) -> AbstractContextManager[Callable[[int], None]]:
        """Show how far the training of a network on so many images has come; yields what advances it."""
        return self.bar(label, n_images)

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
            disable=not self.draws_bars,
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
