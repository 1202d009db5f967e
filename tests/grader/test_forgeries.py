"""Each forgery is caught by the finding it was made for, and by no other."""

from pathlib import Path

import pytest

from grader.findings import Status
from grader.grading.grade import Job, grade
from grader.grading.policy import Policy
from tests.grader.forgeries import FORGERIES, Forger, Forgery
from tests.grader.honest import truth_of


@pytest.fixture(params=["smoke", "honest"])
def original(request: pytest.FixtureRequest) -> Path:
    """A real run and a simulated one, both honest."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Path)
    return found


def test_the_honest_run_passes_clean(original: Path, policy: Policy) -> None:
    found = grade(Job(original, "honest", policy, truth_of(original)))
    assert not found.problems
    assert found.exit_code == 0
    assert [n for n, f in found.findings.items() if found.counts(n) and f.status is Status.FAILS] == []
    assert found.levels == (1, 2, 3)


def test_there_are_sixty_and_more() -> None:
    assert len(FORGERIES) >= 60
    assert len({entry.name for entry in FORGERIES}) == len(FORGERIES)


@pytest.mark.parametrize("entry", FORGERIES, ids=lambda entry: entry.name)
def test_each_is_caught_by_its_finding_alone(
    entry: Forgery, original: Path, policy: Policy, tmp_path: Path
) -> None:
    forger = Forger(original, tmp_path / "run")
    entry.change(forger)
    forger.save()
    truth = truth_of(original) if entry.truth else None
    found = grade(Job(forger.folder, entry.name, policy, truth))
    if entry.caught_by == "unusable":
        assert found.exit_code == 2
        assert len(found.problems) == 1, found.problems
        assert entry.says in found.problems[0]
        return
    assert not found.problems
    failing = [n for n, f in found.findings.items() if found.counts(n) and f.status is Status.FAILS]
    if entry.caught_by == "c-faster" and forger.doc["schema_version"] == "1.0":
        assert failing == []  # it records no CPU time, and other programs may have slowed C down
        return
    assert failing == [entry.caught_by]
    assert found.exit_code == 1
    if entry.truth:  # and without the truth nobody could know
        assert grade(Job(forger.folder, entry.name, policy)).exit_code == 0


def test_more_processor_time_than_the_cores_have(honest: Path, policy: Policy, tmp_path: Path) -> None:
    forger = Forger(honest, tmp_path / "run")
    epoch = forger.doc["runs"][0]["epochs"][0]
    epoch["train_cpu_seconds"] = 3 * forger.doc["environment"]["cpu_cores"] * epoch["train_seconds"] + 1
    forger.save()
    finding = grade(Job(forger.folder, "run", policy)).findings["times-possible"]
    assert finding.status is Status.FAILS
    assert "s of CPU time in" in finding.summary


@pytest.mark.parametrize(("device", "fails"), [("cpu", True), ("cuda", False)])
def test_no_processor_time_on_a_processor(
    honest: Path, policy: Policy, tmp_path: Path, device: str, fails: bool
) -> None:
    """Without CPU times, a replay could not compare those of the variants."""
    forger = Forger(honest, tmp_path / "run")
    forger.doc["environment"]["device"] = device
    for epoch in forger.run("C")["epochs"]:
        epoch["train_cpu_seconds"] = 0.0
    forger.save()
    finding = grade(Job(forger.folder, "run", policy)).findings["times-possible"]
    assert (finding.status is Status.FAILS) is fails
    assert ("no CPU time in" in finding.summary) is fails


@pytest.mark.parametrize("n_correct", [2**62, 10**6])
def test_a_count_above_the_number_of_images_is_a_finding(
    honest: Path, policy: Policy, tmp_path: Path, n_correct: int
) -> None:
    forger = Forger(honest, tmp_path / "run")
    forger.doc["runs"][0]["epochs"][0]["val"]["n_correct"] = n_correct
    forger.save()
    found = grade(Job(forger.folder, "run", policy))
    assert "split-counts" in found.refuted
