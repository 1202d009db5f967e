"""Honest runs are not called forged: simulated ones of every kind, judged by every integrity property.

GRADER_HONEST sets how many runs are simulated, and GRADER_SEED which; the slow variant simulates 2,000.
"""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grader.checks import PROPERTIES, judge
from grader.evidence.gathered import Thresholds, gather
from grader.findings import Status
from grader.submission.load import load
from tests.grader import honest, kinds
from tests.grader.honest import Size, write_run

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


def kin(folder: Path, weights: dict[str, Any] | None = None) -> dict[str, Status]:
    """What is said of the kinship of an honest run's networks."""
    document = json.loads((folder / "results.json").read_text())
    if weights is not None:
        document["config"]["weights"], document["weights"] = "runs/first", weights
        (folder / "results.json").write_text(json.dumps(document))
    found = judge(gather(load(folder), Thresholds()))
    return {name: found[name].status for name in ("networks-differ", "hard-images-shared")}


def test_networks_that_only_learned_how_frequent_classes_are(tmp_path: Path) -> None:
    """They agree about most losses, and nobody would copy them."""
    size = Size(40, 900, 400, 400, epochs=1, seeds=(0, 1), uneven=3.0, collapsed=frozenset("ABC"))
    assert set(kin(write_run(tmp_path / "run", size)).values()) == {Status.NOT_CHECKED}


def test_networks_whose_losses_are_nearly_all_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(honest, "SKILL", {"A": 2.2, "B": 6.5, "C": 24.0})
    size = Size(3, 900, 900, 900, epochs=1, seeds=(0, 1))
    assert set(kin(write_run(tmp_path / "run", size)).values()) == {Status.HOLDS}


def test_networks_that_were_one_before_they_were_trained(tmp_path: Path) -> None:
    """Whose head was kept; with new heads they would be copies."""
    folder = write_run(tmp_path / "run", Size(epochs=2, seeds=(0, 1), continued=True))
    weights = {"kind": "run", "source": "first", "sha256": honest.sha("first"), "dropped": []}
    assert kin(folder, weights)["networks-differ"] is Status.HOLDS
    weights["dropped"] = ["fc.bias", "fc.weight"]
    assert kin(folder, weights)["networks-differ"] is Status.FAILS
