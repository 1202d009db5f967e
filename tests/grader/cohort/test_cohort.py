"""What comparing a class does to its grades: nothing, unless seeds were prescribed."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grader.cohort.cohort import Cohort, compared
from grader.evidence.seeds import Prescription
from grader.findings import Finding, Level, Status
from grader.grading.grade import Job, grade
from grader.grading.policy import Policy
from tests.grader.honest import Size, commit, write_run

SEEDS = {name: Prescription("n", name).seed for name in ("alice", "bob", "carol")}


def results(run: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((run / "results.json").read_text())
    return document


@pytest.fixture
def submissions(tmp_path: Path) -> Path:
    """Honest runs of alice and carol with the seeds that were prescribed to them."""
    for name in ("alice", "carol"):
        write_run(tmp_path / name, Size(seeds=(SEEDS[name],), n_train=100, n_val=60, n_test=70, epochs=2))
    return tmp_path


@pytest.fixture
def copied(submissions: Path) -> Path:
    """Bob's copy of alice's run, with another date."""
    shutil.copytree(submissions / "alice", submissions / "bob")
    document = results(submissions / "bob")
    document["created_at"] = "2026-12-24T10:00:00Z"
    (submissions / "bob/results.json").write_text(json.dumps(document))
    return submissions / "bob"


def relabeled(run: Path, to: int) -> None:
    """Pretend that a run was trained with another seed, commitments and files included."""
    text = (run / "results.json").read_text()
    before = results(run)["config"]["seeds"][0]
    document = json.loads(text.replace(str(before), str(to)))
    commit(document)
    for path in (run / "predictions").iterdir():
        path.rename(path.with_name(path.name.replace(str(before), str(to))))
    (run / "results.json").write_text(json.dumps(document))


def cohort(folder: Path, policy: Policy, seeds: Mapping[str, int] | None = None) -> Cohort:
    grades = []
    for name in sorted(path.name for path in folder.iterdir()):
        prescription = Prescription("n", name) if seeds else None
        grades.append(grade(Job(folder / name, name, policy, prescription=prescription, is_compared=True)))
    return compared(grades, seeds)


def statuses(found: Cohort) -> dict[str, Status]:
    return {grade.run: grade.findings["own-runs"].status for grade in found.grades}


def test_an_honest_class(submissions: Path, policy: Policy) -> None:
    found = cohort(submissions, policy, SEEDS)
    assert found.groups == []
    assert statuses(found) == {"alice": Status.HOLDS, "carol": Status.HOLDS}
    assert found.grades[0].findings["own-runs"].summary == "None of the 1 other submission has the same runs."


def test_a_copy_is_flagged_but_fails_nothing_by_itself(copied: Path, policy: Policy) -> None:
    found = cohort(copied.parent, policy)
    assert set(statuses(found).values()) == {Status.NOT_CHECKED}
    assert {grade.run: grade.refuted for grade in found.grades} == {"alice": [], "bob": [], "carol": []}
    (look,) = found.looks
    assert look.startswith("alice and bob: the same measured times")
    assert found.flags("bob")[0].startswith("as alice: the same measured times")
    assert found.flags("carol") == []


def test_the_victim_of_a_plain_copy_is_left_alone(copied: Path, policy: Policy) -> None:
    """Bob's seed is not his, which says who copied."""
    found = cohort(copied.parent, policy, SEEDS)
    assert statuses(found) == {"alice": Status.HOLDS, "bob": Status.FAILS, "carol": Status.HOLDS}
    assert found.grades[1].refuted == ["seed-prescribed", "own-runs"]


def test_a_copy_under_its_own_seed_fails_both_until_a_rerun_shows_which(copied: Path, policy: Policy) -> None:
    relabeled(copied, SEEDS["bob"])
    found = cohort(copied.parent, policy, SEEDS)
    assert [grade.refuted for grade in found.grades] == [["own-runs"], ["own-runs"], []]
    (look,) = found.looks
    assert "the same measured times" in look


def test_a_rerun_shows_which_is_the_copy(copied: Path, policy: Policy) -> None:
    relabeled(copied, SEEDS["bob"])
    grades = list(cohort(copied.parent, policy).grades)
    recomputed = Finding(Status.FAILS, Level.CHECKPOINTS, "another start", name="start-recomputed")
    grades[1] = replace(grades[1], findings={**grades[1].findings, "start-recomputed": recomputed})
    assert statuses(compared(grades, SEEDS)) == {
        "alice": Status.HOLDS,
        "bob": Status.FAILS,
        "carol": Status.HOLDS,
    }


def test_times_changed_too(copied: Path, policy: Policy) -> None:
    relabeled(copied, SEEDS["bob"])
    document = results(copied)
    for run in document["runs"]:
        for epoch in run["epochs"]:
            epoch["train_seconds"] *= 1.01
            epoch["train_cpu_seconds"] *= 1.01
        total = sum(epoch["train_seconds"] for epoch in run["epochs"])
        run["total_seconds"] *= 1.01
        run["images_per_second"] = run["budget"]["images"] / total
    document["timings"]["total_seconds"] *= 1.01
    (copied / "results.json").write_text(json.dumps(document))
    found = cohort(copied.parent, policy, SEEDS)
    assert [grade.refuted for grade in found.grades] == [["own-runs"], ["own-runs"], []]
    (group,) = (group for group in found.groups if group.kind == "training")
    assert (group.is_copy, group.what) == (True, ("files", "losses", "predictions", "weights"))


def test_an_unusable_submission_ends_nothing(copied: Path, policy: Policy) -> None:
    (copied / "results.json").write_text("{")
    found = cohort(copied.parent, policy, SEEDS)
    assert [grade.exit_code for grade in found.grades] == [0, 2, 0]
    assert found.grades[1].findings == {}


def test_damage_does_not_hide_whose_run_it_was(copied: Path, policy: Policy) -> None:
    """It earns nothing, and so risks nothing: it is flagged, and accuses nobody."""
    relabeled(copied, SEEDS["bob"])
    next((copied / "predictions").iterdir()).write_text("no table")
    document = results(copied)
    for run in document["runs"]:
        for name, file in run["artifacts"].items():
            if (copied / file["path"]).is_file():
                content = (copied / file["path"]).read_bytes()
                run["artifacts"][name]["sha256"] = hashlib.sha256(content).hexdigest()
    (copied / "results.json").write_text(json.dumps(document))
    found = cohort(copied.parent, policy, SEEDS)
    assert [grade.exit_code for grade in found.grades] == [0, 2, 0]
    assert found.flags("bob")[0].startswith("as alice: the same measured times")
    assert statuses(Cohort([found.grades[0]])) == {"alice": Status.HOLDS}


def test_the_instructors_own_run(submissions: Path, policy: Policy) -> None:
    alice = grade(Job(submissions / "alice", "alice", policy, is_compared=True))
    assert alice.traces is not None
    found = compared([alice], known={"reference x": alice.traces})
    assert found.looks[0].startswith("alice and reference x: the same measured times")
    assert compared([], known={"reference x": alice.traces, "reference y": alice.traces}).looks == []
