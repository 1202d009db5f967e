"""Losses that two honest networks may have in common, and those that only copies share."""

from pathlib import Path

import pytest

from grader.checks.training import distinct_runs
from grader.evidence.gathered import Thresholds, gather
from grader.evidence.telling import is_telling
from grader.evidence.traces import traces_of
from grader.findings import Status
from grader.submission.load import load
from grader.submission.parts import Metrics
from grader.submission.record import SPLITS
from tests.grader.forgeries import Forger
from tests.grader.honest import Size, write_run


def test_networks_that_are_right_and_certain_are_no_copies(tmp_path: Path) -> None:
    forger = Forger(write_run(tmp_path / "honest", Size(epochs=3)), tmp_path / "run")
    for variant in "BC":
        for split in SPLITS:
            rows = forger.rows(variant, split)
            forger.write_rows(variant, split, [[name, label, label, "-0", "1"] for name, label, *_ in rows])
            for epoch in forger.run(variant)["epochs"]:
                epoch[split] |= {"loss_sum": 0.0, "n_correct": len(rows)}
        for epoch in forger.run(variant)["epochs"]:
            epoch["train"]["n_correct"] = 100 + epoch["epoch"]
    forger.save()
    evidence = gather(load(forger.folder), Thresholds())
    assert distinct_runs(evidence).status is Status.HOLDS
    marks = [run.marks for run in traces_of(evidence).runs if run.variant in "BC"]
    assert not marks[0]["predictions"] & marks[1]["predictions"]
    assert not marks[0]["files"] & marks[1]["files"]


@pytest.mark.parametrize(
    ("loss", "n", "expected"),
    [
        (3.1234567, 100, True),
        (3.1234567, 30, True),
        (3.1234567, 29, False),
        (19.0, 100, False),
        (0.0, 100, False),
        (4e-7, 100, False),
    ],
)
def test_losses_that_two_networks_may_share(loss: float, n: int, expected: bool) -> None:
    assert is_telling(Metrics(loss, 5, n)) is expected


@pytest.mark.parametrize(("wrong", "expected"), [(10, Status.FAILS), (9, Status.HOLDS)])
def test_equal_counts_tell_only_where_many_are_wrong(tmp_path: Path, wrong: int, expected: Status) -> None:
    """Nearly perfect rows had the same counts by chance."""
    forger = Forger(write_run(tmp_path / "honest", Size(epochs=3)), tmp_path / "run")
    for variant in "BC":
        for epoch in forger.run(variant)["epochs"]:
            n_test = epoch["test"]["n_samples"]
            epoch["train"]["n_correct"] = 100 + epoch["epoch"]
            epoch["val"]["n_correct"] = epoch["val"]["n_samples"]
            epoch["test"]["n_correct"] = n_test - wrong
    forger.save()
    assert distinct_runs(gather(load(forger.folder), Thresholds())).status is expected
