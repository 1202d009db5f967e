"""Honest runs are not called forged: simulated ones of every kind, judged by every integrity property.

GRADER_HONEST sets how many runs are simulated; the slow variant simulates 2,000.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from grader.checks import PROPERTIES, judge
from grader.evidence.gathered import Thresholds, gather
from grader.findings import Status
from grader.submission.load import load
from tests.grader import honest
from tests.grader.honest import Size, truth_of, write_run

N = int(os.environ.get("GRADER_HONEST", "20"))


def draw(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> Size:
    """An experiment of some size, whose networks are more or less skilled and more or less alike."""
    n_classes = int(rng.choice([2, 5, 10, 40]))
    skills = {name: float(rng.uniform(0.5, 3) if name == "A" else rng.uniform(3, 8)) for name in "ABC"}
    monkeypatch.setattr(honest, "SKILL", skills)
    monkeypatch.setattr(honest, "SHARED", float(rng.uniform(1.0, 2.5)))
    monkeypatch.setattr(honest, "PEAK", float(10 ** rng.uniform(-4, 0)))
    monkeypatch.setattr(honest, "WARMUP_EPOCHS", float(rng.choice([0, 0.3, 0.5, 1, 5])))
    monkeypatch.setattr(honest, "EPOCH_SECONDS", {n: float(10 ** rng.uniform(-1, 3)) for n in "ABC"})
    n_train = int(rng.integers(max(20, n_classes), 1500))
    held_out = [int(rng.integers(max(10, n_classes), 900)) for _ in range(2)]
    seeds = tuple(range(int(rng.integers(1, 4))))
    return Size(
        n_classes, n_train, *held_out, int(rng.integers(1, 8)), seeds, int(rng.choice([8, 32, 64, 256]))
    )


@pytest.mark.parametrize("runs", [N, pytest.param(2000, marks=pytest.mark.slow)])
def test_simulated_runs(runs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(31)
    alarms: list[tuple[int, str, str]] = []
    for number in range(runs):
        folder = write_run(tmp_path / str(number), draw(rng, monkeypatch))
        found = judge(gather(load(folder), Thresholds(), truth_of(folder)))
        alarms += [
            (number, name, finding.summary)
            for name, finding in found.items()
            if finding.status is Status.FAILS and PROPERTIES[name].is_integrity
        ]
        for path in (*folder.glob("*/*"), folder / "results.json"):
            path.unlink()
    assert len({number for number, _, _ in alarms}) <= runs / 1000, alarms
