"""What is kept of a run to compare it with others."""

import json
import shutil
from pathlib import Path

import pytest

from grader.evidence.gathered import Thresholds, gather
from grader.evidence.traces import MOST_LOSSES, Traces, traces_of
from grader.grading.grade import Job, grade
from grader.grading.policy import Policy
from grader.submission.load import load
from tests.grader.forgeries import Forger
from tests.grader.honest import Size, write_run


def traces(run: Path) -> Traces:
    return traces_of(gather(load(run), Thresholds()))


def test_of_an_honest_run(honest: Path) -> None:
    found = {run.name: run for run in traces(honest).runs}
    assert set(found) == {f"{variant}-seed{seed}" for variant in "ABC" for seed in (0, 1)}
    run = found["B-seed1"]
    assert {kind: len(marks) for kind, marks in run.marks.items()} == {
        "times": 4, "losses": 4, "weights": 4, "predictions": 6, "files": 3, "start": 0, "stream": 1
    }  # fmt: skip
    assert run.losses is not None
    assert (run.losses.shape, run.losses.dtype, run.n_test) == ((540,), "float32", 270)
    assert found["A-seed0"].marks["start"] != found["A-seed1"].marks["start"]
    assert len({run.images for run in found.values()}) == 1


def test_runs_of_different_seeds_share_nothing(honest: Path) -> None:
    runs = traces(honest).runs
    for first in runs:
        for second in runs:
            if first.seed != second.seed:
                assert not [kind for kind in first.marks if first.marks[kind] & second.marks[kind]]


def test_many_images_are_thinned_out(tmp_path: Path) -> None:
    (run, *_) = traces(write_run(tmp_path / "run", Size(n_val=900, n_test=1500, epochs=2))).runs
    assert run.losses is not None
    assert MOST_LOSSES / 2 < len(run.losses) <= MOST_LOSSES


@pytest.mark.parametrize("seconds", [0, 1, 2.5, 0.125, 1.001, 3.141])
def test_round_times_are_no_evidence(honest: Path, tmp_path: Path, seconds: float) -> None:
    shutil.copytree(honest, tmp_path / "run")
    document = json.loads((tmp_path / "run/results.json").read_text())
    for epoch in document["runs"][0]["epochs"]:
        epoch["train_seconds"] = seconds
    (tmp_path / "run/results.json").write_text(json.dumps(document))
    assert traces(tmp_path / "run").runs[0].marks["times"] == frozenset()


def test_without_predictions(honest: Path, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_bytes((honest / "results.json").read_bytes())
    (run, *_) = traces(tmp_path).runs
    assert (run.losses, run.images) == (None, "")
    assert len(run.marks["losses"]) == 4


def test_version_1_has_fewer(smoke: Path) -> None:
    (run, *_) = traces(smoke).runs
    assert run.marks["weights"] == frozenset()
    assert len(run.marks["times"]) > 1


@pytest.mark.filterwarnings("error")
def test_a_made_up_loss_of_1e308_prints_no_warning(tmp_path: Path, policy: Policy) -> None:
    forger = Forger(write_run(tmp_path / "honest", Size(epochs=2)), tmp_path / "run")
    header, first, *others = forger.path("B", "test").read_text().splitlines()
    name, label, predicted, _, confidence = first.split(",")
    lines = [header, ",".join([name, label, predicted, "1e308", confidence]), *others, ""]
    forger.write("B", "test", "\n".join(lines).encode())
    (forger.folder / "results.json").write_text(json.dumps(forger.doc))
    assert grade(Job(forger.folder, "x", policy, is_compared=True)).exit_code == 1
