"""The variant that the verdict advises is the one that its sentence names."""

from pathlib import Path

import pytest

from grader.grade import Job, grade
from grader.policy import Policy, load_policy
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


class TestMissingEvidence:
    """What an instructor must do first is said first."""

    def test_homework_without_rerun(self, smoke: Path) -> None:
        found = grade(Job(smoke, "x", load_policy("homework")))
        first, second = found.objections
        assert first.endswith("ask for the folder checkpoints/, which is not there, and grade with --rerun.")
        assert second.endswith("it comes with level 4, or with --labels or --dataset.")
        assert found.sentences[-1] == ("To do: submit the folder checkpoints/ too, and grade with --rerun.")

    def test_without_predictions_nothing_else_helps(self, smoke: Path, tmp_path: Path) -> None:
        (tmp_path / "results.json").write_bytes((smoke / "results.json").read_bytes())
        found = grade(Job(tmp_path, "x", load_policy("homework")))
        assert [int(level) for level in found.missing] == [2, 4, 3]
        assert found.sentences[-1] == "To do: submit the folder predictions/ too."
