"""What the tests of the command line share."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.builders.config import TINY_OPTIONS
from tests.builders.runs import Command


@pytest.fixture(autouse=True)
def _signal_handlers() -> Iterator[None]:
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def tiny() -> list[str]:
    """Options of an experiment that takes a second with the narrow network."""
    return TINY_OPTIONS.split()


@pytest.fixture
def refused(finetune: Command) -> Callable[..., str]:
    """Runs a command line that must be refused; returns its one sentence."""

    def run(*arguments: str) -> str:
        code, _, err = finetune(*arguments)
        assert code == 2
        assert "Traceback" not in err
        lines = err.strip().splitlines()
        assert lines[-1].startswith("Error: ")
        if not lines[0].startswith("Usage:"):
            progress = [line for line in lines if re.fullmatch(r"[\d.]+%", line)]  # of a download
            assert len(lines) == 1 + len(progress), err
        return lines[-1].removeprefix("Error: ")

    return run


@pytest.fixture
def process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python in a process of its own."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    return run
