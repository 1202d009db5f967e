"""A job as it stands: what each variant does, and how long the whole job still takes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from finetune.config.experiment import ExperimentConfig
from finetune.run.pace import TimeLeft, duration
from finetune.run.records import Document, Json, Pair
from finetune.run.tuning.search import Trial
from finetune.system.console import Reporter
from finetune.training.record import Epoch, Metrics
from grader.findings import rate_text

NAME_WIDTH = 14
FIXED_WIDTH = 62
"""Columns of the table without the longest name and the bar."""

WAITING = "waiting"
DOING_WIDTH = len("trial 10")
"""Of the column that says what a variant does, so that the others stay where they are."""

BAR_WIDTH = (6, 30)

SOON = 3.0
"""Seconds left, below which an estimate is no better than a word."""


@dataclass
class Row:
    """What a variant does at the moment.

    Attributes:
        doing: in a word or two.
        epochs: of the training that is under way or was the last.
        epoch: those of them that have ended.
        images: that it has been trained on.
        learning_rate: its peak.
        images_per_second: in training, without evaluation.
        best: highest validation accuracy so far, of trials or of final runs; 0 to 1.
    """

    doing: str = WAITING
    epochs: int = 0
    epoch: int = 0
    images: int = 0
    learning_rate: float | None = None
    images_per_second: float | None = None
    best: float | None = None


class Watch:
    """Follows a job, tells the reporter of its events, and draws it as a table.

    Args:
        config: of the job.
        pairs: final runs of this process that have not ended.
        record: the results so far.
        reporter: receives the events.
    """

    def __init__(
        self, config: ExperimentConfig, pairs: Iterable[Pair], record: Document, reporter: Reporter
    ) -> None:
        self.config = config
        self.reporter = reporter
        self.n_samples = {name: s["n_samples"] for name, s in record["dataset"]["splits"].items()}
        self.left = TimeLeft(config, pairs, self.n_samples)
        self.rows = {v.name: Row() for v in config.variants}
        for name, row in self.rows.items():
            if not any(pair[0] == name for pair in self.left.runs):
                row.doing = "done"
        self._trials = dict.fromkeys(self.rows, 0)
        self._facts: dict[str, Any] = {}
        self._row = Row()
        self._estimate: tuple[float, float] | None = None  # when it was made, and the seconds left then

    def begin(self, record: Document, run: str, resumed: bool) -> None:
        """Tell of the job, before the first training."""
        config = self.config
        self.reporter.event(
            "start",
            {
                "run": run,
                "resumed": resumed,
                "version": record["tool"]["version"],
                "dataset": record["dataset"]["name"],
                "n_classes": len(record["dataset"]["classes"]),
                "n_images": self.n_samples,
                "device": record["environment"]["device"],
                "precision": config.precision,
                "epochs": {v.name: config.epochs_of(v) for v in config.variants},
                "seeds": list(config.seed_list),
                "tune": config.tune.mode if config.tune else None,
            },
        )

    def trial_begins(self, trial: Trial) -> None:
        """A trial of a variant is next."""
        self._trials[trial.variant] += 1
        doing = f"trial {self._trials[trial.variant]}"
        self._begin("trial", trial.variant, self.config.tuning_seed, trial.learning_rate, trial.epochs, doing)

    def run_begins(self, variant: str, seed: int, learning_rate: float, epochs: int) -> None:
        """A final run of a variant is next."""
        before = self._facts.get("stage"), self._facts.get("variant")
        self._begin("run", variant, seed, learning_rate, epochs, f"seed {seed}")
        if before != ("run", variant) and seed == min(s for name, s in self.left.runs if name == variant):
            self._row.best = None  # that of its trials, at another number of epochs

    def _begin(
        self, stage: str, variant: str, seed: int, learning_rate: float, epochs: int, doing: str
    ) -> None:
        self._facts = {
            "stage": stage,
            "variant": variant,
            "seed": seed,
            "learning_rate": learning_rate,
            "epochs": epochs,
        }
        self._row = row = self.rows[variant]
        row.doing, row.epochs, row.epoch, row.images = doing, epochs, 0, 0
        row.learning_rate = learning_rate

    def advance(self, n_images: int) -> None:
        """Count images that were trained on; called after each step."""
        self._row.images += n_images

    def epoch_ended(self, epoch: Epoch, _best: object = None) -> None:
        """Take an epoch of the training under way into account, and tell of it."""
        facts, row = self._facts, self._row
        self.left.pace.add(facts["variant"], epoch)
        row.epoch = epoch.epoch
        row.images_per_second = epoch.train.n_samples / max(epoch.train_seconds, 1e-9)
        row.best = max(row.best or 0.0, epoch.val.accuracy)
        if facts["stage"] == "run":
            self.left.runs[facts["variant"], facts["seed"]] = row.epochs - epoch.epoch
        else:
            self.left.under_way = facts["variant"], epoch.epoch
        seconds = self._estimated()
        self.reporter.event(
            "epoch",
            {
                **facts,
                "epoch": epoch.epoch,
                **_metrics("train", epoch.train),
                **_metrics("val", epoch.val),
                **_metrics("test", epoch.test),
                "train_seconds": epoch.train_seconds,
                "evaluation_seconds": epoch.evaluation_seconds,
                "images_per_second": row.images_per_second,
                "seconds_left": seconds,
            },
        )

    def trial_ended(self, outcome: Json) -> None:
        """Tell how a trial went; `outcome` is its entry in the results."""
        self._facts["stage"], self.left.under_way, self._row.doing = "ended", None, WAITING
        self._estimated()
        scores = [e["n_correct"] / e["n_samples"] for e in outcome["validation"]]
        self.reporter.event(
            "trial",
            {
                **{key: outcome[key] for key in ("variant", "round", "learning_rate", "epochs", "status")},
                "val_accuracy": max(scores, default=None),
                "train_seconds": outcome["train_seconds"],
            },
        )

    def run_ended(self, variant: str, seed: int, failed: bool) -> None:
        """A final run has ended."""
        self.left.runs.pop((variant, seed), None)
        is_last = not any(name == variant for name, _ in self.left.runs)
        self.rows[variant].doing = ("failed" if failed else "done") if is_last else WAITING
        self._estimated()

    def _estimated(self) -> float | None:
        """Estimate the seconds that are left, and remember when that was."""
        seconds = self.left.seconds()
        self._estimate = None if seconds is None else (time.monotonic(), seconds)
        return seconds

    def render(self, width: int, stopping: bool, ended: bool = False) -> RenderableType:
        """The table of variants and, unless the job has ended early, the time left."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        widest = min(NAME_WIDTH, max(len("variant"), *map(len, self.rows)))
        table.add_column("variant", width=widest, no_wrap=True)
        table.add_column("", no_wrap=True, min_width=DOING_WIDTH)
        table.add_column("", no_wrap=True)
        for name in ("epochs", "learning rate", "images/s", "best val"):
            table.add_column(name, justify="right", no_wrap=True)
        narrow, wide = BAR_WIDTH
        bar_width = max(narrow, min(wide, width - widest - FIXED_WIDTH))
        for name, row in self.rows.items():
            total = row.epochs * self.n_samples["train"]
            table.add_row(
                name,
                row.doing,
                ProgressBar(total=max(1, total), completed=row.images, width=bar_width),
                f"{row.epoch}/{row.epochs}" if row.epochs else "",
                "" if row.learning_rate is None else rate_text(row.learning_rate),
                "" if row.images_per_second is None else f"{row.images_per_second:,.0f}",
                "" if row.best is None else f"{row.best:.1%}",
            )
        if ended:
            return table
        return Group(table, Text("Stopping after this step..." if stopping else self._time_left()))

    def _time_left(self) -> str:
        if self._estimate is None:
            return "The time left is known after the first epoch."
        made, seconds = self._estimate
        if seconds == 0:
            return "Training has ended; the results are being written."
        left = seconds - (time.monotonic() - made)
        return (
            "The job is about to end." if left < SOON else f"About {duration(left)} left for the whole job."
        )


def _metrics(split: str, metrics: Metrics | None) -> dict[str, float | None]:
    return {
        f"{split}_loss": metrics.loss if metrics else None,
        f"{split}_accuracy": metrics.accuracy if metrics else None,
    }
