"""Test accuracy without near-duplicates, recomputed from the predictions."""

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from grader.checks.near_duplicates import accuracy_without, near_duplicates_do_not_decide
from grader.errors import UnusableError
from grader.evidence.gathered import Evidence, Thresholds, gather
from grader.findings import Level, Status
from grader.submission.load import Submission, check, load
from grader.submission.record import results_from
from tests.grader.honest import Size, write_run

Listed = Callable[..., Evidence]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("near") / "run"
    write_run(folder, Size())
    return folder


def near(pairs: Sequence[tuple[str, str]], **changed: Any) -> dict[str, Any]:
    found = [
        {"sample_id": name, "split": split, "other_id": "t", "other_split": "train", "distance": 3,
         "mirrored": False}
        for name, split in pairs
    ]  # fmt: skip
    counts = {f"n_{split}": sum(s == split for _, s in pairs) for split in ("val", "test")}
    return {"max_distance": 36, "n_compared": 100, "n_not_compared": 0, **counts, "pairs": found, **changed}


@pytest.fixture
def listed(honest: Path) -> Listed:
    """Evidence of the honest run, whose results list near-duplicates."""

    def make(pairs: Sequence[tuple[str, str]], **changed: Any) -> Evidence:
        submission = load(honest)
        document = copy.deepcopy(dict(submission.document))
        document["dataset"]["near_duplicates"] = near(pairs, **changed)
        valid = check(json.dumps(document).encode(), "results.json")
        return gather(Submission(honest, results_from(valid), valid), Thresholds())

    return make


def wrong(evidence: Evidence, run: str = "A-seed0") -> list[str]:
    rows = evidence.predictions[run, "test"]
    return [name for name, correct in zip(rows.sample_ids, rows.correct.tolist(), strict=True) if not correct]


def test_none_listed(listed: Listed) -> None:
    found = near_duplicates_do_not_decide(listed([]))
    assert (found.status, found.level) == (Status.HOLDS, Level.FILE)
    assert found.summary == "No test image is listed as a near-duplicate; 100 images were compared."


def test_not_compared(honest: Path) -> None:
    found = near_duplicates_do_not_decide(gather(load(honest), Thresholds()))
    assert found.status is Status.NOT_CHECKED
    assert "too small" in found.summary


def test_accuracy_is_recomputed_without_them(listed: Listed) -> None:
    evidence = listed([])
    before = {run.name: rows for run, rows in evidence.rows("test") if run.variant == "A"}
    name = wrong(evidence)[0]
    evidence = listed([(name, "test")])
    kept = [
        [correct for row, correct in zip(rows.sample_ids, rows.correct.tolist(), strict=True) if row != name]
        for rows in before.values()
    ]
    accuracy = accuracy_without(evidence)["A"]
    assert accuracy.rest == pytest.approx(fmean(map(fmean, kept)))
    assert accuracy.whole == pytest.approx(fmean(float(rows.correct.mean()) for rows in before.values()))
    found = near_duplicates_do_not_decide(evidence)
    assert (found.status, found.level) == (Status.HOLDS, Level.PREDICTIONS)
    assert found.summary.startswith("Without 1 test image that looks like a copy: A ")
    assert found.numbers["A_accuracy"] == pytest.approx(accuracy.rest)


def test_they_decide(listed: Listed) -> None:
    evidence = listed([])
    found = near_duplicates_do_not_decide(listed([(name, "test") for name in wrong(evidence)]))
    assert found.status is Status.FAILS
    assert found.held < found.judged


@pytest.mark.parametrize("split", ["val", "test"])
def test_an_image_that_was_never_predicted(listed: Listed, split: str) -> None:
    found = near_duplicates_do_not_decide(listed([("nobody", split)]))
    assert found.status is Status.FAILS
    assert "'nobody' is listed as a near-duplicate" in found.summary


def test_validation_images_do_not_change_test_accuracy(listed: Listed) -> None:
    evidence = listed([])
    name = evidence.predictions["A-seed0", "val"].sample_ids[0]
    assert near_duplicates_do_not_decide(listed([(name, "val")])).numbers == {"n_test": 0}


def test_more_than_are_listed(listed: Listed) -> None:
    evidence = listed([])
    found = near_duplicates_do_not_decide(listed([(wrong(evidence)[0], "test")], n_test=2))
    assert found.status is Status.NOT_CHECKED
    assert found.summary == "Not all near-duplicates are listed."


def test_every_test_image_is_one(listed: Listed) -> None:
    names = listed([]).predictions["A-seed0", "test"].sample_ids
    found = near_duplicates_do_not_decide(listed([(name, "test") for name in names]))
    assert found.status is Status.FAILS
    assert found.summary == "Every test image looks like a copy of a training or validation image."


def test_the_list_is_bounded(honest: Path) -> None:
    document = json.loads((honest / "results.json").read_text())
    document["dataset"]["near_duplicates"] = near([(str(i), "test") for i in range(2001)])
    with pytest.raises(UnusableError, match="pairs"):
        check(json.dumps(document).encode(), "results.json")
