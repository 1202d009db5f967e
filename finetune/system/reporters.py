"""Reporters for other readers: a live table for terminals, JSON Lines for programs, tagged lines, silence."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live

from finetune.system.console import Reporter, Watched, printable

REFRESHES_PER_SECOND = 2
"""Of the live display. A thread draws it, so that no training step waits for the terminal."""


def reporter_for(
    log_format: str = "text", quiet: bool = False, rank: int = 0, parallel: str | None = None
) -> Reporter:
    """The reporter of a process that trains.

    Args:
        log_format: `text` or `json`.
        quiet: say only what is wrong, and the answer.
        rank: of the process.
        parallel: `runs`, `data`, or None for a single process; of those that share each batch, the first
            speaks for all.
    """
    if parallel == "data" and rank > 0:
        return SilentReporter(rank)
    if log_format == "json":
        return JsonReporter(rank)
    if quiet:
        return QuietReporter(rank)
    if parallel == "runs":
        return TaggedReporter(rank)
    live = LiveReporter()
    # Not where FORCE_COLOR makes rich take a pipe for a terminal: a log would get every frame.
    return live if live.animates and live.console.file.isatty() else Reporter()


class LiveReporter(Reporter):
    """Shows a table of the job that is redrawn in place; other lines go above it."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__(console)
        self._job: Watched | None = None
        self._stopping = self._ended = False

    @property
    def draws_bars(self) -> bool:
        """Not beside the table."""
        return super().draws_bars and self._job is None

    def detail(self, text: str) -> None:
        """Nothing: the table shows it."""

    def stopping(self) -> None:
        """Leave it to the thread that draws: the terminal is its own while the table is shown."""
        if self._job is None:
            super().stopping()
        self._stopping = True

    @contextmanager
    def watching(self, job: Watched) -> Iterator[None]:
        """Show the job while the block runs; if that ends early, its last state stays on the screen."""

        def render() -> RenderableType:
            return job.render(self.console.width, self._stopping, self._ended)

        live = Live(
            console=self.console,
            get_renderable=render,
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,
        )
        self._job = job
        try:
            with live:
                # Visible again: a process that is killed could not bring it back.
                self.console.show_cursor(True)
                try:
                    yield
                except BaseException:
                    live.transient, self._ended = False, True
                    raise
        finally:
            self._job = None

    def training(self, label: str, n_images: int) -> AbstractContextManager[Callable[[int], None]]:
        """Count in the table."""
        return super().training(label, n_images) if self._job is None else nullcontext(self._job.advance)


class RankedReporter(Reporter):
    """The reporter of one of several processes, which get a signal together.

    Args:
        rank: of the process.
        console: None means standard output.
    """

    def __init__(self, rank: int, console: Console | None = None) -> None:
        super().__init__(console)
        self.rank = rank

    def stopping(self) -> None:
        """Once for all processes."""
        if self.rank == 0:
            super().stopping()


class SilentReporter(RankedReporter):
    """Prints nothing."""

    def __init__(self, rank: int) -> None:
        super().__init__(rank, Console(quiet=True))


class QuietReporter(SilentReporter):
    """Prints warnings on standard error, and the verdict."""

    def warn(self, text: str) -> None:
        """A line on standard error."""
        sys.stderr.write(f"{printable(text)}\n")

    def answer(self, text: str) -> None:
        """A line on standard output."""
        sys.stdout.write(f"{printable(text)}\n")
        sys.stdout.flush()

    def doubts(self, lines: Sequence[str], in_short: str) -> None:  # noqa: ARG002 - one line is enough
        """All of it in one line."""
        if in_short:
            self.answer(in_short)


class JsonReporter(SilentReporter):
    """Writes one JSON object a line for each event; docs/terminal.md lists events and fields."""

    def warn(self, text: str) -> None:
        """An event of its own."""
        self.event("warning", {"message": text})

    def event(self, name: str, facts: Mapping[str, Any]) -> None:
        """One line, written at once."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"event": name, "time": time, "rank": self.rank, **facts}, allow_nan=False)
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


class TaggedReporter(RankedReporter):
    """Starts each line with the rank, for processes that share a terminal or a log; draws no bars."""

    def say(self, text: str) -> None:
        """One line, after the rank."""
        super().say(f"[{self.rank}] {text}")

    @property
    def draws_bars(self) -> bool:
        """Never."""
        return False
