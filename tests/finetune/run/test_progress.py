"""What is said of a tuned job, and how long it still takes, from epochs whose seconds are known."""

from __future__ import annotations

from typing import Any

import pytest

from finetune.config.experiment import STANDARD_VARIANTS, Variant
from finetune.config.tune import Tune
from finetune.run.pace import Pace, duration, step_cost
from finetune.run.progress import Progress
from finetune.run.tuning.search import Key, Trial
from finetune.run.watch import Watch
from finetune.training.record import Epoch, Metrics
from tests.builders.config import tiny_config
from tests.builders.runs import RecordingReporter

A, B, C = STANDARD_VARIANTS
FC = Variant(name="fc", init="pretrained", train=("fc",))
N_SAMPLES = {"train": 100, "val": 10, "test": 30}
RECORD: Any = {"dataset": {"splits": {name: {"n_samples": n} for name, n in N_SAMPLES.items()}}}


def epoch(seconds: float, evaluation: float, with_test: bool = False) -> Epoch:
    val, test = (Metrics(1.0, 1, n) for n in (10, 30))
    return Epoch(
        epoch=1,
        learning_rate=0.1,
        train=Metrics(1.0, 1, 100),
        val=val,
        test=test if with_test else None,
        train_seconds=seconds,
        train_cpu_seconds=seconds,
        data_wait_seconds=0.0,
        evaluation_seconds=evaluation,
    )


def test_cost_of_a_step_grows_with_the_layers_that_gradients_reach() -> None:
    """C over B was measured as 0.52 and 0.54 at 64 px (docs/benchmarks.md)."""
    assert step_cost(A) == step_cost(B) == pytest.approx(3, abs=0.01)
    assert step_cost(C) / step_cost(B) == pytest.approx(0.5, abs=0.05)
    assert step_cost(FC) == pytest.approx(1, abs=1e-5)
    bottom = Variant(name="bottom", init="pretrained", train=("layer1",))
    assert step_cost(C) < step_cost(bottom) < step_cost(B)


def test_a_variant_that_has_not_trained_is_estimated_from_the_others() -> None:
    pace = Pace((FC, B, C))
    pace.add("fc", epoch(2.0, 1.0))
    of_b = 2.0 * step_cost(B) / step_cost(FC)
    assert pace.seconds("B", 0) == pytest.approx(of_b)
    assert pace.seconds("B", 20) == pytest.approx(of_b + 2.0)
    pace.add("B", epoch(9.0, 4.0, with_test=True))
    assert pace.seconds("B", 0) == 9.0
    assert pace.seconds("C", 0) == pytest.approx(step_cost(C) * (2.0 + 9.0 / step_cost(B)) / 2)


def test_the_rest_of_the_job_is_what_its_epochs_take() -> None:
    """E = 8: five trials of two epochs and two of four for each variant; then two final runs."""
    reporter = RecordingReporter()
    config = tiny_config(variants=(B, C), tune=Tune(), epochs=8)
    watch = Watch(config, [("B", 0), ("C", 0)], RECORD, reporter)
    progress = Progress(watch)
    outcomes: dict[Key, Any] = {}
    progress.begin(outcomes)
    assert watch.left.seconds() is None
    trial = Trial("B", 1, Tune().rates[0], 2)
    progress.trial_begins(trial)
    progress.epoch_ended(epoch(3.0, 1.0))
    share = step_cost(C) / step_cost(B)
    seconds = (17 + 8) * 3.0 + (18 + 8) * 3.0 * share + 0.1 * ((17 + 18) * 10 + 2 * 8 * 40)
    assert watch.left.seconds() == pytest.approx(seconds)
    assert "36 epochs of trials" in reporter.said[0]
    told = f"  At the pace of this epoch the rest of the job takes about {duration(seconds)}."
    assert reporter.said[-1] == told

    outcomes[trial.key] = {
        "variant": "B",
        "for_seed": None,
        "round": 1,
        "learning_rate": trial.learning_rate,
        "epochs": 2,
        "status": "completed",
        "validation": [{"n_correct": 1, "n_samples": 10, "loss_sum": 1.0}] * 2,
        "train_seconds": 6.0,
    }
    progress.trial_ended(trial, outcomes)
    seconds -= 3.0 + 0.1 * 10  # its second epoch
    assert reporter.said[-1] == f"  About {duration(seconds)} left."


def test_the_time_left_is_told_once_after_a_trial_of_one_epoch() -> None:
    reporter = RecordingReporter()
    watch = Watch(tiny_config(variants=(B, C), tune=Tune(), epochs=4), [("B", 0), ("C", 0)], RECORD, reporter)
    progress = Progress(watch)
    progress.begin({})
    trial = Trial("B", 1, Tune().rates[0], 1)
    progress.trial_begins(trial)
    progress.epoch_ended(epoch(3.0, 1.0))
    outcome = {
        "variant": "B",
        "for_seed": None,
        "round": 1,
        "learning_rate": trial.learning_rate,
        "epochs": 1,
        "status": "completed",
        "validation": [{"n_correct": 1, "n_samples": 10, "loss_sum": 1.0}],
        "train_seconds": 3.0,
    }
    progress.trial_ended(trial, {trial.key: outcome})
    assert sum("pace of this epoch" in line or " left." in line for line in reporter.said) == 1


def test_the_epochs_of_final_runs_count_for_the_pace() -> None:
    reporter = RecordingReporter()
    config = tiny_config(variants=(B, C), tune=Tune(), epochs=4)
    watch = Watch(config, [("B", 0), ("C", 0)], RECORD, reporter)
    progress = Progress(watch)
    watch.left.trials = dict  # all have ended
    watch.run_begins("B", 0, 0.01, 4)
    watch.epoch_ended(epoch(200.0, 0.0, with_test=True))
    watch.run_ended("B", 0, failed=False)
    progress.run_ended()
    left = duration(4 * 200.0 * step_cost(C) / step_cost(B))
    assert reporter.said[-1] == f"  About {left} left."
    watch.run_ended("C", 0, failed=False)
    n_said = len(reporter.said)
    progress.run_ended()
    assert len(reporter.said) == n_said
