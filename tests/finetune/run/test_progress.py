"""How long a tuned job still takes, from epochs whose seconds are known."""

from __future__ import annotations

import pytest

from finetune.config.experiment import STANDARD_VARIANTS, Variant
from finetune.config.tune import Tune
from finetune.run.progress import Pace, Progress, duration, step_cost
from finetune.run.tuning import Key
from finetune.training.record import Epoch, Metrics
from tests.builders.config import tiny_config
from tests.builders.runs import RecordingReporter

A, B, C = STANDARD_VARIANTS
FC = Variant(name="fc", init="pretrained", train=("fc",))
SPLITS = {"train": {"n_samples": 100}, "val": {"n_samples": 10}, "test": {"n_samples": 30}}


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
    assert step_cost(FC) == 1
    bottom = Variant(name="bottom", init="pretrained", train=("layer1",))
    assert step_cost(C) < step_cost(bottom) < step_cost(B)


def test_a_variant_that_has_not_trained_is_estimated_from_the_others() -> None:
    pace = Pace((FC, B, C))
    pace.add("fc", epoch(2.0, 1.0))
    assert pace.seconds("B", 0) == pytest.approx(2.0 * step_cost(B))
    assert pace.seconds("B", 20) == pytest.approx(2.0 * step_cost(B) + 2.0)
    pace.add("B", epoch(9.0, 4.0, with_test=True))
    assert pace.seconds("B", 0) == 9.0
    assert pace.seconds("C", 0) == pytest.approx(step_cost(C) * (2.0 + 9.0 / step_cost(B)) / 2)


def test_the_whole_job_is_what_its_epochs_take() -> None:
    """E = 8: five trials of two epochs and two of four for each variant; then two final runs."""
    reporter = RecordingReporter()
    config = tiny_config(variants=(B, C), tune=Tune(), epochs=8)
    progress = Progress(config, [("B", 0), ("C", 0)], SPLITS, reporter)
    outcomes: dict[Key, object] = {}
    progress.begin(outcomes)  # type: ignore[arg-type]
    progress.epoch_ended("B", epoch(3.0, 1.0))
    trials, runs = 2 * (5 * 2 + 2 * 4), 2 * 8
    training = (3.0 + 3.0 * step_cost(C) / step_cost(B)) / 2
    expected = (trials + runs) * training + 0.1 * (trials * 10 + runs * 40)
    assert progress.seconds_left() == pytest.approx(expected)
    assert "36 epochs of trials" in reporter.said[0]
    assert reporter.said[1] == f"  At the pace of this epoch the whole job takes about {duration(expected)}."
    progress.epoch_ended("C", epoch(1.0, 1.0))
    progress.run_ended("B", 0)
    assert len(reporter.said) == 3  # the pace is told once, then what is left
