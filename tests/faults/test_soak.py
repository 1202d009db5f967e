"""SIGKILL at random instants: whatever was happening, the run resumes to the same result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.run import saving
from tests.builders.networks import use_narrow_network
from tests.faults.crash import crash

KILLS = int(os.environ.get("FAULTS_KILLS", "4"))
"""How often an experiment is killed; `make soak` kills more often."""


def assert_nothing_lost(figures: dict[str, float], kills: int) -> None:
    assert figures["kills"] == kills
    assert figures["kills_aimed_at_a_write"] == kills // 3
    assert figures["kills_in_a_write"] >= figures["kills_aimed_at_a_write"] // 2
    assert figures["finished_and_equal"] >= 1
    assert figures["results_lost"] == 0


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_kills_with_a_narrow_network(
    tmp_path: Path, narrow_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In children of this process, which has imported everything."""
    use_narrow_network(monkeypatch, draw=False)
    monkeypatch.setattr(saving, "CHECKPOINT_SECONDS", 0.0)
    assert_nothing_lost(crash(tmp_path / "runs", 3, 2026, str(narrow_weights)), 3)


@pytest.mark.slow
def test_kills_with_resnet18(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.crash", str(tmp_path / "runs"), str(KILLS), "2026"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)  # noqa: T201 - the figures, for `make soak`
    assert_nothing_lost(json.loads(done.stdout.splitlines()[-1]), KILLS)
