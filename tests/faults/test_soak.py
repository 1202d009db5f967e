"""SIGKILL at random instants: whatever was happening, the run resumes to the same result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = int(os.environ.get("FAULTS_KILLS", "4"))
"""How often an experiment is killed; `make soak` kills more often."""


def crashed(folder: Path, kills: int, *options: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.crash", str(folder), str(kills), "2026", *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)  # noqa: T201 - the figures, for `make soak`
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    assert figures["kills"] == kills
    assert figures["kills_aimed_at_a_write"] == kills // 3
    assert figures["kills_in_a_write"] >= figures["kills_aimed_at_a_write"] // 2
    assert figures["finished_and_equal"] >= 1
    assert figures["results_lost"] == 0
    return figures


def test_kills_with_a_narrow_network(tmp_path: Path) -> None:
    crashed(tmp_path / "runs", 3, "--narrow")


@pytest.mark.slow
def test_kills_with_resnet18(tmp_path: Path) -> None:
    crashed(tmp_path / "runs", KILLS)
