"""A job as it stands: its table, its events, and the time it still takes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from finetune.config.experiment import STANDARD_VARIANTS
from finetune.config.tune import Tune
from finetune.run.experiment import run_experiment
from finetune.run.pace import step_cost
from finetune.run.tuning.search import Trial
from finetune.run.watch import Watch
from finetune.system.signals import StopRequest
from finetune.training.record import Epoch, Metrics
from tests.builders.config import tiny_config
from tests.builders.runs import RecordingReporter

A, _, C = STANDARD_VARIANTS

SHARE = step_cost(C) / step_cost(A)

RECORD: Any = {
    "dataset": {"splits": {"train": {"n_samples": 100}, "val": {"n_samples": 20}, "test": {"n_samples": 20}}}
}


class Events(RecordingReporter):
    """Collects events."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[str, dict[str, Any]]] = []

    def event(self, name: str, facts: Any) -> None:
        self.events.append((name, dict(facts)))

    def of(self, name: str) -> list[dict[str, Any]]:
        return [facts for found, facts in self.events if found == name]


def watch(**fields: Any) -> Watch:
    config = tiny_config(variants=(A, C), epochs=4, **fields)
    return Watch(config, [(v.name, s) for s in config.seed_list for v in (A, C)], RECORD, Events())


def epoch(number: int, seconds: float = 2.0, n_correct: int = 10, is_trial: bool = False) -> Epoch:
    held_out = Metrics(20.0, n_correct, 20)
    return Epoch(
        epoch=number,
        learning_rate=0.01,
        train=Metrics(100.0, 50, 100),
        val=held_out,
        test=None if is_trial else held_out,
        train_seconds=seconds,
        data_wait_seconds=0.0,
        evaluation_seconds=0.5 if is_trial else 1.0,
    )


def shown(job: Watch, width: int = 80, stopping: bool = False) -> list[str]:
    text = io.StringIO()
    Console(file=text, width=width).print(job.render(width, stopping))
    return [line.rstrip() for line in text.getvalue().splitlines()]


class TestTimeLeft:
    def test_of_all_runs_at_the_pace_so_far(self) -> None:
        job = watch(seeds=2)
        assert shown(job)[-1] == "The time left is known after the first epoch."
        job.run_begins("A", 0, 0.02, 4)
        job.epoch_ended(epoch(1))
        # Left are 7 epochs of A and 8 of C, each with an evaluation of one second; A trains for two seconds,
        # and C, which has not trained yet, for as much less as its steps cost less.
        left = 7 * 3.0 + 8 * (2.0 * SHARE + 1.0)
        assert job.reporter.of("epoch")[0]["seconds_left"] == pytest.approx(left)  # type: ignore[attr-defined]
        assert shown(job)[-1] == f"About {left:.0f} s left for the whole job."

    def test_a_resumed_run_has_fewer_epochs_left(self) -> None:
        job = watch()
        job.run_begins("A", 0, 0.02, 4)
        job.epoch_ended(epoch(4))
        left = 4 * (2.0 * SHARE + 1.0)
        assert job.reporter.of("epoch")[0]["seconds_left"] == pytest.approx(left)  # type: ignore[attr-defined]
        job.run_ended("A", 0, failed=False)
        job.run_begins("C", 0, 0.02, 4)
        job.epoch_ended(epoch(1, seconds=1.0))
        assert job.reporter.of("epoch")[1]["seconds_left"] == pytest.approx(6.0)  # type: ignore[attr-defined]

    def test_of_trials_too(self) -> None:
        job = watch(tune=Tune(rates=(0.01, 0.02)))
        job.left.trials = lambda: {"A": 6, "C": 6}
        job.trial_begins(Trial("A", 1, 0.01, 2))
        job.epoch_ended(epoch(1, is_trial=True))
        # 11 epochs of trials with the evaluation of one split, and eight of runs with that of two.
        left = 9 * 2.0 + 10 * 2.0 * SHARE + 11 * 0.5 + 8 * 1.0
        assert job.reporter.of("epoch")[0]["seconds_left"] == pytest.approx(left)  # type: ignore[attr-defined]

    def test_in_words_at_the_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = 100.0
        monkeypatch.setattr("finetune.run.watch.time.monotonic", lambda: now)
        job = watch()
        job.run_begins("A", 0, 0.02, 4)
        job.run_ended("A", 0, failed=True)
        job.run_begins("C", 0, 0.02, 4)
        job.epoch_ended(epoch(3, seconds=3.0))
        assert shown(job)[-1] == "About 4 s left for the whole job."
        now += 2.5
        assert shown(job)[-1] == "The job is about to end."
        now += 60.0
        assert shown(job)[-1] == "The job is about to end."
        job.epoch_ended(epoch(4, seconds=3.0))
        assert shown(job)[-1] == "Training has ended; the results are being written."


class TestTable:
    def test_a_row_for_each_variant(self) -> None:
        job = watch()
        job.run_begins("A", 0, 10**-1.5, 4)
        job.advance(150)
        job.epoch_ended(epoch(1, n_correct=15))
        header, a, c, _ = shown(job)
        assert header.split() == ["variant", "epochs", "learning", "rate", "images/s", "best", "val"]
        assert a.split()[:3] == ["A", "seed", "0"]
        assert a.split()[-4:] == ["1/4", "0.0316", "50", "75.0%"]
        assert c.split()[:2] == ["C", "waiting"]

    def test_ended_and_failed(self) -> None:
        job = watch()
        job.run_begins("A", 0, 0.02, 4)
        job.run_ended("A", 0, failed=True)
        job.run_begins("C", 0, 0.02, 4)
        job.run_ended("C", 0, failed=False)
        _, a, c, _ = shown(job)
        assert (a.split()[1], c.split()[1]) == ("failed", "done")

    def test_a_row_waits_between_its_trainings(self) -> None:
        job = watch(seeds=2, tune=Tune(rates=(0.01, 0.02)))
        job.trial_begins(Trial("A", 1, 0.01, 2))
        job.epoch_ended(epoch(1, is_trial=True))
        assert shown(job)[1].split()[1:3] == ["trial", "1"]
        outcome = {"variant": "A", "round": 1, "learning_rate": 0.01, "epochs": 2, "status": "completed"}
        job.trial_ended(outcome | {"validation": [], "train_seconds": 1.0})
        assert shown(job)[1].split()[1] == "waiting"
        job.run_begins("A", 0, 0.01, 4)
        job.run_ended("A", 0, failed=False)
        assert shown(job)[1].split()[1] == "waiting"
        job.run_begins("A", 1, 0.01, 4)
        job.run_ended("A", 1, failed=False)
        assert shown(job)[1].split()[1] == "done"

    def test_a_final_run_forgets_what_trials_reached(self) -> None:
        job = watch(tune=Tune(rates=(0.01, 0.02)))
        job.trial_begins(Trial("A", 1, 0.01, 2))
        job.epoch_ended(epoch(1, n_correct=19, is_trial=True))
        assert "trial 1" in shown(job)[1]
        assert shown(job)[1].endswith("95.0%")
        job.trial_begins(Trial("A", 1, 0.02, 2))
        assert "trial 2" in shown(job)[1]
        job.run_begins("A", 0, 0.01, 4)
        assert "%" not in shown(job)[1]

    def test_a_job_that_was_stopped_has_no_time_left(self) -> None:
        job = watch()
        job.run_begins("A", 0, 0.02, 4)
        job.epoch_ended(epoch(1))
        text = io.StringIO()
        Console(file=text, width=80).print(job.render(80, False, ended=True))
        assert "left" not in text.getvalue()
        assert "1/4" in text.getvalue()

    def test_a_signal_is_acknowledged(self) -> None:
        assert shown(watch(), stopping=True)[-1] == "Stopping after this step..."

    @pytest.mark.parametrize("width", [80, 120])
    def test_it_fits(self, width: int) -> None:
        job = watch(seeds=5)
        job.rows["a-name-of-32-letters-that-is-long"] = job.rows.pop("C")
        job.run_begins("A", 4, 10**-1.5, 4)
        job.epoch_ended(epoch(1, seconds=0.0001, n_correct=20))
        lines = shown(job, width)
        assert len(lines) == 4
        assert max(map(len, lines)) < width
        assert lines[1].split()[-4:] == ["1/4", "0.0316", "1,000,000", "100.0%"]


@pytest.mark.usefixtures("narrow")
def test_the_events_of_a_tuned_job(narrow_weights: Path, tmp_path: Path) -> None:
    config = tiny_config(weights=str(narrow_weights), variants=(C,), tune=Tune(rates=(0.01, 0.02)))
    reporter = Events()
    record = run_experiment(config, tmp_path / "run", reporter, StopRequest())
    names = [name for name, _ in reporter.events]
    assert names[0] == "start"
    assert names[-1] == "verdict"
    assert reporter.of("start")[0]["tune"] == "halving"
    trials = reporter.of("trial")
    assert [t["learning_rate"] for t in trials] == [t["learning_rate"] for t in record["tuning"]["trials"]]
    epochs = reporter.of("epoch")
    final = [e for e in epochs if e["stage"] == "run"]
    assert [e["epoch"] for e in final] == [1, 2]
    assert all(e["test_accuracy"] is None for e in epochs if e["stage"] == "trial")
    assert [e["seconds_left"] for e in final][-1] == 0
    assert reporter.of("verdict")[0]["runs"][0]["best_epoch"] == record["runs"][0]["best_epoch"]
