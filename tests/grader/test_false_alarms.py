"""Honest runs are not called forged: simulated ones of every kind, judged by every integrity property.

GRADER_HONEST sets how many runs are simulated, and GRADER_SEED which; the slow variant simulates 2,000.
"""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from grader.checks import PROPERTIES, judge
from grader.evidence import Thresholds, gather
from grader.findings import Status
from grader.load import load
from tests.grader import kinds

N = int(os.environ.get("GRADER_HONEST", "20"))
SEED = int(os.environ.get("GRADER_SEED", "31"))


@pytest.mark.parametrize("runs", [N, pytest.param(2000, marks=pytest.mark.slow)])
def test_simulated_runs(runs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(SEED)
    alarms: list[tuple[int, str, str]] = []
    judged: Counter[str] = Counter()
    drawn: Counter[str] = Counter()
    for number in range(runs):
        folder = tmp_path / str(number)
        size, names = kinds.write(folder, rng, monkeypatch)
        drawn.update(names)
        found = judge(gather(load(folder), Thresholds(), kinds.truth_of(size)))
        for name, finding in found.items():
            if PROPERTIES[name].is_integrity:
                judged[name] += finding.status is not Status.NOT_CHECKED
                if finding.status is Status.FAILS:
                    alarms.append((number, name, f"{finding.summary} {finding.details}"))
        for path in (*folder.glob("*/*"), folder / "results.json"):
            path.unlink()
    print(f"{runs} runs, of kinds {dict(drawn)}; judged by {dict(judged)}")  # noqa: T201 - for the docs
    print(f"alarms by {Counter(name for _, name, _ in alarms)}")  # noqa: T201
    assert len({number for number, _, _ in alarms}) <= runs / 1000, alarms
