"""Experiment trackers that a job was asked to write for; nothing of them is imported otherwise.

They are written from the records, and know what they have: a job that is resumed, or whose processes trained
apart and were merged, leaves every point once. What a tracker fails at stops that tracker, not the training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from finetune.report.judged import JudgedRun
from finetune.run.records import Document, Json
from finetune.system.console import Reporter
from finetune.training.record import Epoch
from grader.submission.record import SPLITS


class Tracker(Protocol):
    """Where a job's figures go; `run` is an entry of the results, complete or only as it starts."""

    def epochs(self, run: Json, epochs: Sequence[Json]) -> None:
        """Write those of a run's epochs that are not there yet; `epochs` are all so far."""

    def ended(self, run: Json) -> None:
        """Write what is known once a run has ended; may be called again."""

    def finished(self, document: Document, judged: JudgedRun) -> None:
        """Write what is known once all runs have ended: verdict, files, images; may be called again."""


class Tracking:
    """All trackers of a job.

    Args:
        trackers: by name.
        reporter: is told of a tracker that fails.
    """

    def __init__(self, trackers: dict[str, Tracker], reporter: Reporter) -> None:
        self._trackers = trackers
        self._reporter = reporter

    def of(self, run: Json) -> Callable[[Sequence[Epoch]], None]:
        """What is to be called with all epochs of a run whenever one has ended."""

        def ended(epochs: Sequence[Epoch]) -> None:
            if self._trackers:
                rows = [dataclasses.asdict(epoch) for epoch in epochs]
                self._each(lambda tracker: tracker.epochs(run, rows))

        return ended

    def ended(self, run: Json) -> None:
        """A run has ended and is in the results."""
        self._each(lambda tracker: tracker.ended(run))

    def finished(self, document: Document, judged: JudgedRun) -> None:
        """All runs have ended, and the results are judged."""
        for run in document["runs"]:
            self._each(lambda tracker, run=run: tracker.epochs(run, run["epochs"]))  # type: ignore[misc]
            self.ended(run)
        self._each(lambda tracker: tracker.finished(document, judged))

    def _each(self, write: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                write(tracker)
            except Exception as error:  # other people's servers and disks must not cost hours of training
                del self._trackers[name]
                self._reporter.say(
                    f"Tracking with {name} has stopped ({type(error).__name__}: {error}); "
                    "the job goes on, and its results are not affected."
                )


def open_tracking(names: Sequence[str], out: Path, record: Document, reporter: Reporter) -> Tracking:
    """The trackers with these names, ready to be written.

    Args:
        names: `tensorboard`, `mlflow`.
        out: run folder.
        record: the results so far.
        reporter: is told where they are, and of failures.

    Raises:
        ConfigError: MLflow's store cannot be used.
        ModuleNotFoundError: an extra is not installed.
    """
    trackers: dict[str, Tracker] = {}
    for name in names:
        if name == "tensorboard":
            from finetune.run.tracking.tensorboard import TensorBoard

            trackers[name] = TensorBoard(out, record["config"])
        else:
            from finetune.run.tracking.mlflow import MLflow

            trackers[name] = MLflow(out, record["config"])
    for name, tracker in trackers.items():
        reporter.say(f"Tracking with {name}: {tracker}")
    return Tracking(trackers, reporter)


def best_accuracies(run: Json) -> dict[str, float]:
    """Accuracy on `val` and `test` in the chosen epoch of a run that has ended; empty without one."""
    best = next((e for e in run["epochs"] if e["epoch"] == run["best_epoch"]), None)
    return {split: best[split]["n_correct"] / best[split]["n_samples"] for split in SPLITS} if best else {}


def require_trackers(names: Sequence[str]) -> None:
    """Import what the trackers need, so that a missing extra is found before images are decoded.

    Raises:
        ModuleNotFoundError: an extra is not installed.
    """
    if "tensorboard" in names:
        import tensorboard  # noqa: F401 - only whether it is there
    if "mlflow" in names:
        import finetune.run.tracking.mlflow  # noqa: F401 - sets what must be set before MLflow is imported
