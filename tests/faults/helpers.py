"""The command line in this process, and what the tests of faults compare."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from finetune.cli import app as cli
from tests.finetune.helpers import files_of, timeless

TINY = (
    "--dataset digits --subset 2 --epochs 2 --batch-size 8 --image-size 16 --lr 0.02 --device cpu --workers 1"
)


@dataclass(frozen=True)
class Done:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    def refused(self) -> str:
        """The one sentence of a command that ended with exit code 2."""
        assert self.code == 2, (self.out, self.err)
        assert "Traceback" not in self.out + self.err
        (line,) = self.err.strip().splitlines()
        assert line.startswith("Error: ")
        assert line.endswith(".")
        return line


def finetune(capsys: pytest.CaptureFixture[str], *arguments: object) -> Done:
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
    return Done(int(ended.value.code or 0), said.out, said.err)


def tiny_command(out: Path, weights: Path | str, *more: object) -> list[object]:
    """Arguments of a training that takes a second with the narrow network."""
    return ["train", *TINY.split(), "--weights", weights, "--out", out, *more]


def results_of(out: Path) -> dict[str, Any]:
    """What results.json holds."""
    return dict(json.loads((out / "results.json").read_text("utf-8")))


def assert_same(found: Path, expected: Path) -> None:
    """Results and files of two run folders are equal but for times."""
    assert timeless(results_of(found)) == timeless(results_of(expected))
    skip = ("results.json", ".lock", "curves.png", "config.toml")  # the last names the weights file's folder
    assert files_of(found, skip) == files_of(expected, skip)
    assert (found / "curves.png").read_bytes()[:4] == b"\x89PNG"
