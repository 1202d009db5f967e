"""What runs an experiment or a command in this process, and what it leaves."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from finetune.cli import app as cli
from finetune.system.console import Reporter
from finetune.system.signals import Stopped, StopRequest

Command = Callable[..., tuple[int, str, str]]
"""What the fixture `finetune` gives."""


class RecordingReporter(Reporter):
    """Collects what is said instead of printing it."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


class StopAt(StopRequest):
    """A signal that comes during the n-th piece of work between two safe points."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.left = n

    def check(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Stopped(signal.SIGTERM)


@dataclass(frozen=True)
class CommandResult:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    def refused(self) -> str:
        """The one sentence of a command that ended with exit code 2."""
        assert self.code == 2, (self.out, self.err)
        assert "Traceback" not in self.out + self.err
        (line,) = self.err.strip().splitlines()
        assert line.startswith("Error: ")
        assert line.endswith((".", "?"))  # "did you mean ...?"
        return line


def run_finetune(capsys: pytest.CaptureFixture[str], *arguments: object) -> CommandResult:
    """Run `finetune` in this process, as its console script does."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = sys.argv
    sys.argv = ["finetune", *map(str, arguments)]
    capsys.readouterr()
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        sys.argv = before
        for number, handler in handlers.items():
            signal.signal(number, handler)
    said = capsys.readouterr()
    return CommandResult(int(ended.value.code or 0), said.out, said.err)


def results_of(out: Path) -> dict[str, Any]:
    """What results.json of a run folder contains."""
    return dict(json.loads((out / "results.json").read_text("utf-8")))
