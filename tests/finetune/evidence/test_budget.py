"""What of a replay fits into its seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.evidence.budget import Budget, DoesNotFit, in_turn
from finetune.evidence.replay import replay_run
from tests.builders.runs import RecordingReporter

Experiment = Callable[..., dict[str, Any]]


class Clock:
    """Tells the seconds that a test lets pass."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def trained(budget: Budget, clock: Clock, n_steps: int, each: float, first: float = 0.0) -> int:
    """How many steps of a passage are done before it is given up."""
    passage = budget.passage(n_steps)
    clock.now += first
    for step in range(n_steps):
        clock.now += each
        try:
            passage.step_ended(8)
        except DoesNotFit:
            return step + 1
    return n_steps


@pytest.mark.parametrize(("each", "done"), [(0.4, 20), (0.6, 5), (6.0, 2)])
def test_a_passage_is_given_up_as_soon_as_it_is_seen_not_to_fit(each: float, done: int) -> None:
    clock = Clock()
    budget = Budget(10.0, clock)
    budget.is_used = True
    assert trained(budget, clock, 20, each) == done


def test_a_slow_first_step_says_nothing_about_the_others() -> None:
    clock = Clock()
    budget = Budget(10.0, clock)
    budget.is_used = True
    assert trained(budget, clock, 20, 0.2, first=3.0) == 20


def test_the_first_passage_may_take_longer() -> None:
    clock = Clock()
    budget = Budget(10.0, clock)
    assert trained(budget, clock, 20, 60.0) == 20


def test_an_evaluation_ends_with_the_time() -> None:
    clock = Clock()
    budget = Budget(10.0, clock)
    budget.is_used = True
    passage = budget.passage(20)
    passage.interrupt()
    clock.now += 11.0
    with pytest.raises(DoesNotFit):
        passage.interrupt()


def test_trials_are_mixed_evenly_with_runs() -> None:
    runs = [("A-seed0", 1, 1), ("B-seed0", 1, 1), ("C-seed0", 1, 1), ("C-seed0", 3, 1)]
    found = in_turn(runs, [(4, 1), (9, 1)])
    assert [len(item) for item in found] == [3, 2, 3, 3, 2, 3]
    assert [item for item in found if len(item) == 3] == runs
    assert in_turn([], []) == []


def test_one_passage_at_least(tmp_path: Path, experiment: Experiment, narrow_weights: Path) -> None:
    experiment(tmp_path / "run", epochs=2)
    out = tmp_path / "replay.json"
    replay_run(
        tmp_path / "run",
        out,
        RecordingReporter(),
        passages=[("B-seed0", 1, 1), ("A-seed0", 1, 1), ("C-seed0", 1, 1)],
        seconds=0.0,
        weights=str(narrow_weights),
        device="cpu",
    )
    found = json.loads(out.read_text())
    assert [passage["run"] for passage in found["passages"]] == ["B-seed0"]
    assert [entry["run"] for entry in found["omitted"]] == ["A-seed0", "C-seed0"]
    assert found["repeats"] == []


@pytest.mark.parametrize("fields", [{}, {"cache_views": 1}])
def test_first_epochs_are_repeated_for_their_times(
    tmp_path: Path, experiment: Experiment, narrow_weights: Path, fields: dict[str, Any]
) -> None:
    experiment(tmp_path / "run", epochs=2, **fields)
    out = tmp_path / "replay.json"
    replay_run(
        tmp_path / "run",
        out,
        RecordingReporter(),
        passages=[("B-seed0", 1, 1), ("C-seed0", 1, 2)],
        weights=str(narrow_weights),
        device="cpu",
    )
    repeats = json.loads(out.read_text())["repeats"]
    assert [entry["variant"] for entry in repeats] == ["B", "C", "B", "C"]
    assert all(min(entry["train_seconds"], entry["train_cpu_seconds"]) > 0 for entry in repeats)
