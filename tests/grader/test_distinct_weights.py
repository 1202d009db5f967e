"""No two runs share the weights after an epoch, unless they are one network until then."""

import copy
from pathlib import Path

import pytest

from grader.checks.kinship import networks_differ
from grader.checks.training import distinct_runs
from grader.evidence.gathered import Evidence, Thresholds, gather
from grader.findings import Status
from grader.submission.load import load
from grader.submission.record import SPLITS
from tests.grader.forgeries import Forger
from tests.grader.honest import Size, write_run


@pytest.fixture
def forger(tmp_path: Path) -> Forger:
    write_run(tmp_path / "honest", Size(epochs=3, seeds=(0, 1)))
    return Forger(tmp_path / "honest", tmp_path / "run")


def judged(forger: Forger) -> tuple[Status, str]:
    forger.save()
    found = distinct_runs(Evidence(load(forger.folder).results))
    return found.status, found.summary


@pytest.mark.parametrize(("variant", "seed"), [("C", 0), ("B", 1)])
def test_an_epoch_of_another_run(forger: Forger, variant: str, seed: int) -> None:
    assert judged(forger)[0] is Status.HOLDS
    source, target = forger.run("B")["epochs"][1], forger.run(variant, seed)["epochs"][2]
    target["weights_sha256"] = source["weights_sha256"]
    status, summary = judged(forger)
    assert status is Status.FAILS
    assert summary == f"{variant}-seed{seed} has the same weights after some epoch as B-seed0."


def test_steps_too_small_for_the_weights(forger: Forger) -> None:
    for run in (forger.run("B"), forger.run("C")):
        run["learning_rate"] = 1e-9
        run["epochs"][0]["weights_sha256"] = "1" * 64
    assert judged(forger)[0] is Status.HOLDS


@pytest.mark.parametrize(("best", "status"), [(1, Status.HOLDS), (2, Status.FAILS)])
def test_a_longer_run_that_was_best_in_the_warm_up(forger: Forger, best: int, status: Status) -> None:
    """Until the warm-up ends, both are one network, so both may hand it in; after it, neither may."""
    short, longer = forger.run("B"), forger.run("C")
    forger.doc["config"]["recipe"]["warmup_epochs"] = 1
    for field in ("trained_groups", "learning_rate", "initial_sha256"):
        longer[field] = short[field]
    longer["budget"]["epochs"] = 9
    short["best_epoch"] = longer["best_epoch"] = best
    longer["epochs"][best - 1] = copy.deepcopy(short["epochs"][best - 1])
    for split in ("val", "test"):
        file = f"{split}_predictions"
        longer["artifacts"][file]["sha256"] = short["artifacts"][file]["sha256"]
    forger.save()
    results = load(forger.folder).results
    rows = gather(load(forger.folder), Thresholds()).predictions
    shared = {(name, split): rows["B-seed0", split] for name in ("B-seed0", "C-seed0") for split in SPLITS}
    evidence = Evidence(results, shared)
    assert distinct_runs(evidence).status is status
    assert networks_differ(evidence).status is status
