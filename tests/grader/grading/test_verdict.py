"""The variant that the verdict favors is the one that its sentence names."""

from dataclasses import replace
from pathlib import Path

import pytest

from grader.findings import Finding, Level, Status
from grader.grading.advice import advice
from grader.grading.grade import Job, grade
from grader.grading.policy import Policy, load_policy
from grader.grading.sentences import Scope, cautions, choice, depth, favored, pretraining
from grader.grading.verdict import Grade
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


@pytest.mark.parametrize("others", [(), ("best-epoch",)])
def test_training_with_the_prescribed_seed_is_no_remedy_for_a_false_claim(
    smoke: Path, policy: Policy, others: tuple[str, ...]
) -> None:
    found = grade(Job(smoke, "run", policy))
    fails = {name: Finding(Status.FAILS, Level.FILE, "x") for name in ("seed-prescribed", *others)}
    (todo,) = advice(replace(found, findings={**found.findings, **fails}))
    assert ("with the seed that the course prescribes" in todo) is (not others)


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

    def test_strict_without_labels_and_checkpoints(self, smoke: Path) -> None:
        found = grade(Job(smoke, "x", load_policy("strict")))
        assert found.sentences[-1] == "To do: give the grader the true labels (--labels or --dataset)."

    def test_without_predictions_nothing_else_helps(self, smoke: Path, tmp_path: Path) -> None:
        (tmp_path / "results.json").write_bytes((smoke / "results.json").read_bytes())
        found = grade(Job(tmp_path, "x", load_policy("homework")))
        assert [int(level) for level in found.missing] == [2, 4, 3]
        assert found.sentences[-1] == "To do: submit the folder predictions/ too."


def finding(status: Status, **numbers: float) -> Finding:
    return Finding(status, Level.PREDICTIONS, "summary", (), numbers)


def found_of(low: float, high: float, is_faster: bool = True) -> dict[str, Finding]:
    """Findings of a run, by the interval of C - B at a margin of 2 points."""
    status = Status.HOLDS if low > -0.02 else Status.FAILS if high < -0.02 else Status.INCONCLUSIVE
    gap = {"difference": (low + high) / 2, "low": low, "high": high}
    return {
        "b-beats-a": finding(Status.HOLDS, **gap),
        "b-beats-longer-a": finding(Status.NOT_CHECKED),
        "c-against-b": finding(status, **gap, margin=0.02),
        "c-faster": finding(Status.HOLDS if is_faster else Status.INCONCLUSIVE, ratio=0.5),
        "statistics-settled": finding(Status.HOLDS),
        "long-enough": finding(Status.HOLDS),
        "smallest-sufficient": finding(Status.HOLDS, fc_adjusted_p=0.01, B_adjusted_p=0.01),
        "complete": finding(Status.HOLDS),
    }


SETTLED = Scope(is_tuned=True, n_seeds=3)


@pytest.mark.parametrize(
    ("low", "high", "is_faster", "end", "variant"),
    [
        (0.01, 0.05, False, "as long (could be chance): choose C.", "C"),
        (-0.01, 0.01, True, "within your margin of 2 points, and takes 0.50 times as long: choose C.", "C"),
        (-0.01, 0.01, False, "(could be chance): choose either.", None),
        (-0.06, 0.01, True, ": these runs do not settle which is better, but C saves time.", None),
        (-0.03, 0.09, False, "(could be chance): these runs do not settle which is better.", None),
        (-0.04, -0.01, True, ": choose B unless time matters more.", "B"),
        (-0.09, -0.03, True, "0.50 times as long: choose B.", "B"),
    ],
)
def test_a_choice_follows_from_what_is_settled(
    low: float, high: float, is_faster: bool, end: str, variant: str | None
) -> None:
    (sentence,) = choice(found_of(low, high, is_faster), SETTLED)
    assert sentence.endswith(end)
    assert favored(found_of(low, high, is_faster), SETTLED) == variant
    (untuned,) = choice(found_of(low, high, is_faster), Scope())
    assert "choose" not in untuned
    assert ("has the advantage" in untuned) == (variant is not None or "either" in end)


@pytest.mark.parametrize("status", list(Status))
def test_that_training_was_too_short_is_said_where_the_property_fails(status: Status) -> None:
    found = found_of(0.01, 0.05) | {"long-enough": finding(status)}
    is_told = list(cautions(found, SETTLED)) == ["Caution: summary"]
    lenient = replace(load_policy("default"), weights={})
    todo = advice(Grade("run", lenient, found, tuple(Level), scope=SETTLED))
    is_advised = any("train for more epochs" in sentence for sentence in todo)
    assert is_told == is_advised == (status is Status.FAILS)


def test_that_one_epoch_tells_nothing_about_the_length_is_said() -> None:
    found = found_of(0.01, 0.05) | {"long-enough": finding(Status.INCONCLUSIVE, n_epochs=1)}
    assert list(cautions(found, SETTLED)) == ["Caution: summary"]


@pytest.mark.parametrize("names", [("C",), ("B", "C"), ("A", "B", "C")])
def test_nothing_is_said_for_networks_that_did_not_learn(names: tuple[str, ...]) -> None:
    found, scope = found_of(0.01, 0.05), Scope(is_tuned=True, n_seeds=3, at_chance=names)
    (sentence,) = choice(found, scope)
    assert "cannot be told from networks that have not learned" in sentence
    assert favored(found, scope) is None
    paid = " ".join(pretraining(found, scope, 95))
    assert ("cannot be told" in paid) == ("B" in names)
    (todo,) = advice(Grade("run", load_policy("default"), found, tuple(Level), scope=scope))
    assert "other rates (rates in [tune]), more epochs" in todo
    (todo,) = advice(
        Grade("run", load_policy("default"), found, tuple(Level), scope=replace(scope, is_tuned=False))
    )
    assert "other rates (--tune), more epochs" in todo


def test_a_ladder_none_of_whose_rows_learned() -> None:
    found = found_of(0.01, 0.05)
    assert list(depth(found, Scope(at_chance=("fc",)))) == ["summary"]
    (sentence,) = depth(found, Scope(at_chance=("fc", "B")))
    assert "no row of the ladder has learned" in sentence
