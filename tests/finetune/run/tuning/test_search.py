"""Which trials are run, what they choose, and what is written of it; nothing is trained."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from finetune.config.experiment import SEED_MAX, STANDARD_VARIANTS, ExperimentConfig
from finetune.config.tune import RATES, Tune
from finetune.run.records import Json
from finetune.run.tuning.search import Key, Plan, Trial, beyond, rounds_of, score
from tests.builders.config import tiny_config

A, B, C = STANDARD_VARIANTS
N = 1000
Accuracy = Callable[[Trial], float | None]
"""The validation accuracy that a trial reaches; None if it fails."""


def outcome(trial: Trial, accuracy: float | None, loss: float = 1.0) -> Json:
    """The entry of a trial that reached its accuracy in the last epoch."""
    failed = accuracy is None
    epochs = [] if accuracy is None else [0.0] * (trial.epochs - 1) + [accuracy]
    return {
        "variant": trial.variant,
        "for_seed": trial.for_seed,
        "learning_rate": trial.learning_rate,
        "round": trial.round,
        "is_extension": trial.is_extension,
        "status": "failed" if failed else "completed",
        "validation": [{"loss_sum": loss, "n_correct": round(a * N), "n_samples": N} for a in epochs],
    }


def tuned(accuracy: Accuracy, **fields: Any) -> tuple[list[Trial], Json]:
    """Every trial of an experiment in the order in which it runs, and the `tuning` object."""
    plan = Plan(tiny_config(**{"variants": (B,), "tune": Tune(), "epochs": 8, **fields}))
    outcomes: dict[Key, Json] = {}
    ran: list[Trial] = []
    while pending := plan.pending(outcomes):
        for trial in pending:
            outcomes[trial.key] = outcome(trial, accuracy(trial))
            ran.append(trial)
    return ran, plan.record(outcomes)


def peak_at(best: float) -> Accuracy:
    """Accuracy falls with the distance of the rate from the best one."""
    return lambda trial: 0.9 - 0.1 * abs(math.log10(trial.learning_rate / best))


def rates_by_round(trials: Sequence[Trial], is_extension: bool = False) -> list[tuple[int, float]]:
    return [(t.round, t.learning_rate) for t in trials if t.is_extension == is_extension]


class TestGrid:
    def test_five_rates_a_square_root_of_ten_apart(self) -> None:
        assert len(RATES) == 5
        ratios = [high / low for low, high in itertools.pairwise(RATES)]
        assert ratios == pytest.approx([math.sqrt(10)] * 4)
        assert 0.003 < RATES[0] < 0.01 < RATES[-1] < 0.33

    @pytest.mark.parametrize(
        ("epochs", "expected"),
        [(1, (1,)), (2, (1,)), (3, (1, 2)), (5, (1, 3)), (6, (2, 3)), (9, (2, 5)), (30, (8, 15))],
    )
    def test_epochs_of_halving_are_rounded_with_halves_up(
        self, epochs: int, expected: tuple[int, ...]
    ) -> None:
        assert tuple(r.epochs for r in rounds_of("halving", epochs)) == expected
        assert [r.epochs for r in rounds_of("full", epochs)] == [epochs]


class TestHalving:
    def test_the_best_two_go_on_and_the_better_one_is_chosen(self) -> None:
        ran, record = tuned(peak_at(0.02))
        assert rates_by_round(ran) == [*((1, r) for r in RATES), (2, RATES[1]), (2, RATES[2])]
        assert record["rounds"] == [{"epochs": 2, "keep": 2}, {"epochs": 4, "keep": 1}]
        (choice,) = record["choices"]
        assert choice["extensions"] == 0
        chosen = record["trials"][choice["trial"]]
        assert (chosen["round"], chosen["learning_rate"]) == (2, choice["learning_rate"])
        assert choice["learning_rate"] in RATES[1:3]

    def test_the_last_round_decides_not_the_first(self) -> None:
        later = {RATES[1]: 0.9, RATES[2]: 0.1}

        def accuracy(trial: Trial) -> float:
            return later[trial.learning_rate] if trial.round == 2 else peak_at(RATES[2])(trial) or 0

        assert tuned(accuracy)[1]["choices"][0]["learning_rate"] in (RATES[1], RATES[3])

    def test_every_variant_gets_the_same_grid(self) -> None:
        ran, record = tuned(peak_at(0.02), variants=(A, B, C))
        assert [rates_by_round([t for t in ran if t.variant == name]) for name in "ABC"] == [
            rates_by_round(tuned(peak_at(0.02))[0])
        ] * 3
        assert [c["variant"] for c in record["choices"]] == ["A", "B", "C"]

    def test_a_failed_trial_does_not_go_on(self) -> None:
        ran, record = tuned(lambda t: None if t.learning_rate > RATES[0] else 0.5)
        assert [r for r in rates_by_round(ran) if r[0] == 2] == [(2, RATES[0])]
        assert record["choices"][0]["learning_rate"] < RATES[0]  # at the edge, with room below it
        assert [t["status"] for t in record["trials"][:5]] == ["completed"] + ["failed"] * 4

    def test_nothing_is_chosen_if_all_fail(self) -> None:
        ran, record = tuned(
            lambda t: None if t.variant == "B" else 0.5 + t.learning_rate / 10, variants=(B, C)
        )
        assert [c["variant"] for c in record["choices"]] == ["C"]
        assert [t.round for t in ran if t.variant == "B"] == [1] * 5

    def test_nothing_is_chosen_if_the_last_round_fails(self) -> None:
        assert tuned(lambda t: 0.5 if t.round == 1 else None)[1]["choices"] == []


class TestFull:
    def test_all_rates_at_all_epochs(self) -> None:
        ran, record = tuned(peak_at(RATES[2]), tune=Tune(mode="full"))
        assert rates_by_round(ran) == [(1, r) for r in RATES]
        assert {t.epochs for t in ran} == {8}
        assert record["rounds"] == [{"epochs": 8, "keep": 1}]
        assert record["choices"] == [
            {"variant": "B", "for_seed": None, "learning_rate": RATES[2], "trial": 2, "extensions": 0}
        ]


class TestEdge:
    @pytest.mark.parametrize(
        ("best", "steps", "chosen"),
        [(1e-3, [1e-3, 10**-3.5], 1e-3), (1.0, [1.0, 10**0.5], 1.0), (1e-9, [1e-3, 10**-3.5], 10**-3.5)],
    )
    def test_the_grid_grows_by_its_own_step(self, best: float, steps: list[float], chosen: float) -> None:
        ran, record = tuned(peak_at(best))
        extra = rates_by_round(ran, is_extension=True)
        assert [n for n, _ in extra] == [1, 2] * len(steps)  # every round, whatever the rank
        assert [rate for n, rate in extra if n == 1] == pytest.approx(steps)
        assert record["choices"][0]["learning_rate"] == pytest.approx(chosen)
        assert record["choices"][0]["extensions"] == len(steps)

    def test_not_if_the_next_rate_is_worse(self) -> None:
        _, record = tuned(lambda t: 0.9 if t.learning_rate == RATES[-1] else 0.1)
        assert record["choices"][0]["learning_rate"] == RATES[-1]
        assert record["choices"][0]["extensions"] == 1

    def test_a_rate_that_diverges_ends_the_search(self) -> None:
        ran, record = tuned(lambda t: None if t.learning_rate > 0.5 else t.learning_rate)
        assert len(rates_by_round(ran, is_extension=True)) == 2
        assert record["choices"][0]["learning_rate"] == RATES[-1]

    def test_only_the_variant_concerned(self) -> None:
        ran, _ = tuned(lambda t: peak_at(1.0 if t.variant == "C" else 0.02)(t), variants=(B, C))
        assert {t.variant for t in ran if t.is_extension} == {"C"}

    def test_a_step_is_that_of_the_nearest_neighbors(self) -> None:
        assert beyond(0.3, [0.01, 0.1, 0.3]) == 0.9
        assert beyond(0.01, [0.01, 0.1, 0.3]) == 0.001
        assert beyond(0.1, [0.01, 0.1, 0.3]) is None


class TestRank:
    trial = Trial("B", 1, 0.1, epochs=2)

    def test_accuracy_then_loss_then_the_lower_rate(self) -> None:
        lower = dataclasses.replace(self.trial, learning_rate=0.01)
        ranked = [
            outcome(self.trial, 0.5, loss=9.0),
            outcome(self.trial, 0.4, loss=1.0),
            outcome(lower, 0.4, loss=2.0),
            outcome(self.trial, 0.4, loss=2.0),
            outcome(lower, None),
        ]
        assert sorted((ranked[i] for i in (3, 0, 4, 2, 1)), key=score) == ranked

    def test_the_best_epoch_counts_not_the_last(self) -> None:
        early = outcome(self.trial, 0.5)
        early["validation"].reverse()
        assert score(early) == score(outcome(self.trial, 0.5))


class TestPlan:
    def test_epochs_that_are_left(self) -> None:
        config = tiny_config(variants=(B,), tune=Tune(), epochs=8)
        plan, outcomes = Plan(config), dict[Key, Json]()
        assert plan.epochs_left(B, outcomes) == 5 * 2 + 2 * 4
        left = []
        while pending := plan.pending(outcomes):
            trial = pending[0]
            outcomes[trial.key] = outcome(trial, peak_at(0.02)(trial))
            left.append(plan.epochs_left(B, outcomes))
        assert left == [16, 14, 12, 10, 8, 4, 0]

    def test_no_epochs_are_left_where_no_rate_reaches_the_last_round(self) -> None:
        plan = Plan(tiny_config(variants=(B,), tune=Tune(), epochs=8))
        outcomes = {trial.key: outcome(trial, None) for trial in plan.pending({})}
        assert plan.epochs_left(B, outcomes) == 0

    def test_the_order_of_trials_on_record_is_that_of_the_variants(self) -> None:
        ran, record = tuned(peak_at(0.02), variants=(A, C))
        assert [t["variant"] for t in record["trials"]] == ["A"] * 7 + ["C"] * 7
        assert [t.variant for t in ran] == ["A"] * 5 + ["C"] * 5 + ["A"] * 2 + ["C"] * 2

    @pytest.mark.parametrize(
        ("seed", "seeds", "expected"),
        [(0, 1, 1), (4, 3, 7), (SEED_MAX, 1, SEED_MAX - 1), (SEED_MAX - 1, 1, SEED_MAX)],
    )
    def test_the_seed_of_trials_is_no_final_one(self, seed: int, seeds: int, expected: int) -> None:
        config = ExperimentConfig(seed=seed, seeds=seeds, tune=Tune())
        assert Plan(config).seed == expected
        assert expected not in config.seed_list
        assert 0 <= expected <= SEED_MAX

    def test_stems_tell_all_trials_apart(self) -> None:
        ran, _ = tuned(peak_at(1.0), variants=(B, dataclasses.replace(B, name="B-1"), C))
        assert len({t.stem for t in ran}) == len(ran)
        assert not [(a, b) for a in ran for b in ran if a != b and b.stem.startswith(f"{a.stem}-")]
