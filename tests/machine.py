"""What the tests ask of the machine."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest


def use_one_core() -> None:
    """Keep this process and its children on one core, and so PyTorch to one thread.

    Some tests fork a process that has run PyTorch, and a pool of threads does not survive a fork: the child
    would wait for ever for threads that it does not have. With `pytest -n 2` each worker has its own core.
    `TEST_CORES` tells workers and benchmarks which cores there were.
    """
    if hasattr(os, "sched_setaffinity"):
        own = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        cores = os.environ.setdefault("TEST_CORES", own).split(",")
        worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        os.sched_setaffinity(0, {int(cores[worker % len(cores)])})


def free_port() -> int:
    """A TCP port that nothing listened on a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def real_data(name: str) -> Path:
    """A folder of real images beside the repository; the test is skipped where there is none."""
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"needs ../shared/data/{name}, which is not there")
    return folder
