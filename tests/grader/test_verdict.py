"""The variant that the verdict advises is the one that its sentence names."""

from pathlib import Path

import pytest

from grader.grade import Job, grade
from grader.policy import Policy
from tests.grader import honest as simulated


@pytest.mark.parametrize(
    ("skill", "seconds", "sentence", "advised"),
    [
        ({}, {}, "C has the advantage", "C"),
        ({"C": 3.0}, {}, "B has the advantage", "B"),
        ({"C": 9.0}, {"C": 4.0}, "C has the advantage", "C"),
        ({"A": 9.0, "B": 2.2, "C": 2.2}, {}, "costs accuracy", None),
    ],
)
def test_advises_what_it_says(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    policy: Policy,
    skill: dict[str, float],
    seconds: dict[str, float],
    sentence: str,
    advised: str | None,
) -> None:
    monkeypatch.setattr(simulated, "SKILL", simulated.SKILL | skill)
    monkeypatch.setattr(simulated, "EPOCH_SECONDS", simulated.EPOCH_SECONDS | seconds)
    run = simulated.write_run(tmp_path / "run", simulated.Size(n_test=3000, seeds=(0, 1, 2)))
    found = grade(Job(run, "run", policy))
    assert sentence in " ".join(found.verdict)
    assert found.advised == advised


def test_nothing_is_advised_of_what_cannot_be_graded(tmp_path: Path, policy: Policy) -> None:
    assert grade(Job(tmp_path, "run", policy)).advised is None
