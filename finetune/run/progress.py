"""What a tuned job consists of and how much of it is left, in lines for people."""

from __future__ import annotations

from collections.abc import Mapping

from finetune.distributed.group import Peers
from finetune.run.pace import duration
from finetune.run.records import Json
from finetune.run.tuning.search import Key, Plan, Trial
from finetune.run.watch import Watch
from finetune.training.record import Epoch
from grader.findings import counted, rate_text


class Progress:
    """Says what a tuned job consists of, and how much of it is left.

    Args:
        watch: of the job; told of trials and their epochs, asked for the time left.
        peers: processes among which the trials are dealt out, if any.
    """

    def __init__(self, watch: Watch, peers: Peers | None = None) -> None:
        self.config, self.reporter, self.watch = watch.config, watch.reporter, watch
        self.plan = Plan(self.config)
        self.outcomes: Mapping[Key, Json] = {}
        self._first = ""  # the time left as it was first told
        watch.left.n_processes = peers.info.world_size if peers else 1
        watch.left.trials = self._trial_epochs

    def _trial_epochs(self) -> dict[str, int]:
        return {v.name: self.plan.epochs_left(v, self.outcomes) for v in self.config.variants}

    def begin(self, outcomes: Mapping[Key, Json]) -> None:
        """Say what lies ahead, before the first trial.

        Args:
            outcomes: entries of the trials that have ended in an earlier process.
        """
        self.outcomes = outcomes
        tune, names = self.plan.tune, [v.name for v in self.config.variants]
        n_epochs = sum(self._trial_epochs().values())
        if n_epochs == 0:
            return
        runs = self.watch.left.runs
        self.reporter.say(
            f"Tuning ({tune.mode}): {len(tune.rates)} peak learning rates from {rate_text(tune.rates[0])} to "
            f"{rate_text(tune.rates[-1])} for {', '.join(names)}"
            f"{', on the split of each seed' * self.config.resplit}; "
            f"{counted(n_epochs, 'epoch')} of trials on validation alone, "
            "more where the best rate is the lowest or highest; then "
            f"{counted(len(runs), 'run')} with {counted(sum(runs.values()), 'epoch')} in all."
        )

    def trial_begins(self, trial: Trial) -> None:
        """Say which trial runs."""
        beyond = ", beyond the grid" if trial.is_extension else ""
        epochs = counted(trial.epochs, "epoch")
        self.reporter.detail(f"Trial, round {trial.round}: {trial.label}, {epochs}{beyond}")
        self.watch.trial_begins(trial)

    def epoch_ended(self, epoch: Epoch) -> None:
        """Take an epoch of a trial into account; after the first, say how long the job takes."""
        self.watch.epoch_ended(epoch)
        seconds = self.watch.left.seconds()
        if not self._first and seconds is not None:
            self._first = duration(seconds)
            self.reporter.detail(
                f"  At the pace of this epoch the rest of the job takes about {self._first}."
            )

    def trial_ended(self, trial: Trial, outcomes: Mapping[Key, Json]) -> None:
        """Say how it went and how long the rest takes."""
        self.outcomes = outcomes
        outcome = outcomes[trial.key]
        self.watch.trial_ended(outcome)
        if outcome["status"] == "failed":
            self.reporter.warn(f"  {trial.label} failed. {outcome['failure']}")
        self._say_left()

    def run_ended(self) -> None:
        """Say how long the rest takes after a final run, if anything is left."""
        if self.watch.left.runs:
            self._say_left()

    def _say_left(self) -> None:
        seconds = self.watch.left.seconds()
        if seconds is not None and duration(seconds) != self._first:  # after a trial of one epoch
            self.reporter.detail(f"  About {duration(seconds)} left.")
