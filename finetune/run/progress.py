"""How long a tuned job still takes, from the pace of its epochs so far."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import TYPE_CHECKING

from finetune.config.experiment import GROUPS, ExperimentConfig, Variant
from finetune.distributed.group import Peers
from finetune.run.records import Json, Pair
from finetune.run.tuning import Key, Plan, Trial
from finetune.system.console import Reporter
from finetune.training.record import Epoch
from grader.findings import rate_text

if TYPE_CHECKING:
    from finetune.run.watch import Watch

FORWARD_SHARES = {"conv1": 0.065, "layer1": 0.255, "layer2": 0.227, "layer3": 0.227, "layer4": 0.227}
"""Share of ResNet-18's multiplications by group, at any image size; bn1 and fc have next to none."""


def step_cost(variant: Variant) -> float:
    """What a training step costs, in forward passes: one, and two more over the layers that gradients reach.

    Gradients reach back to the first group that trains; a backward pass computes gradients of inputs and of
    weights, each of which takes as many multiplications as the forward pass.
    """
    first = min(GROUPS.index(group) for group in variant.groups)
    return 1 + 2 * sum(FORWARD_SHARES.get(group, 0.0) for group in GROUPS[first:])


class Pace:
    """Seconds that an epoch takes, by variant.

    Of a variant that has not trained yet, what its steps cost in comparison with those of the others is
    assumed, and that evaluation takes as long.

    Args:
        variants: of the job.
    """

    def __init__(self, variants: Iterable[Variant]) -> None:
        self._costs = {variant.name: step_cost(variant) for variant in variants}
        self._training: dict[str, list[float]] = defaultdict(list)
        self._per_image: dict[str, list[float]] = defaultdict(list)

    def add(self, variant: str, epoch: Epoch) -> None:
        """Take an epoch into account."""
        n_images = epoch.val.n_samples + (epoch.test.n_samples if epoch.test else 0)
        self._training[variant].append(epoch.train_seconds)
        self._per_image[variant].append(epoch.evaluation_seconds / n_images)

    def seconds(self, variant: str, n_held_out: int) -> float:
        """Of an epoch with an evaluation of `n_held_out` images; at least one epoch must have been added."""
        known = self._training.get(variant)
        if known:
            training = fmean(known)
        else:
            per_cost = fmean(fmean(v) / self._costs[name] for name, v in self._training.items())
            training = per_cost * self._costs[variant]
        evaluation = self._per_image.get(variant) or [fmean(v) for v in self._per_image.values()]
        return training + n_held_out * fmean(evaluation)


class Progress:
    """Says what a tuned job consists of, and how much of it is left.

    Args:
        config: of the job.
        pairs: final runs of this process.
        splits: the splits as the results describe them.
        reporter: receives the lines.
        peers: processes among which the trials are dealt out, if any.
        watch: told of trials and their epochs.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        pairs: Iterable[Pair],
        splits: Mapping[str, Json],
        reporter: Reporter,
        peers: Peers | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.config = config
        self.plan = Plan(config)
        self.n_samples = {name: split["n_samples"] for name, split in splits.items()}
        self.n_processes = peers.info.world_size if peers else 1
        self.reporter = reporter
        self.pace = Pace(config.variants)
        self.outcomes: Mapping[Key, Json] = {}
        epochs = {v.name: config.epochs_of(v) for v in config.variants}
        self.finals = {pair: epochs[pair[0]] for pair in pairs}
        self._said = False
        self.watch = watch
        if watch:
            watch.trial_epochs, watch.n_processes = self._trial_epochs, self.n_processes

    def _trial_epochs(self) -> dict[str, int]:
        return {v.name: self.plan.epochs_left(v, self.outcomes) for v in self.config.variants}

    def begin(self, outcomes: Mapping[Key, Json]) -> None:
        """Say what lies ahead, before the first trial.

        Args:
            outcomes: entries of the trials that have ended in an earlier process.
        """
        self.outcomes = outcomes
        tune, names = self.plan.tune, [v.name for v in self.config.variants]
        n_epochs = sum(self.plan.epochs_left(v, outcomes) for v in self.config.variants)
        if n_epochs == 0:
            return
        finals = sum(self.finals.values())
        self.reporter.say(
            f"Tuning ({tune.mode}): {len(tune.rates)} peak learning rates from {rate_text(tune.rates[0])} to "
            f"{rate_text(tune.rates[-1])} for {', '.join(names)}"
            f"{', on the split of each seed' * self.config.resplit}; "
            f"{n_epochs} epochs of trials on validation alone, "
            "more where the best rate is the lowest or highest; then "
            f"{len(self.finals)} run{'s' * (len(self.finals) != 1)} with {finals} epochs."
        )

    def trial_begins(self, trial: Trial) -> None:
        """Say which trial runs."""
        epochs = f"{trial.epochs} epoch{'s' if trial.epochs > 1 else ''}"
        beyond = ", beyond the grid" if trial.is_extension else ""
        self.reporter.detail(f"Trial, round {trial.round}: {trial.label}, {epochs}{beyond}")
        if self.watch:
            self.watch.trial_begins(trial)

    def epoch_ended(self, variant: str, epoch: Epoch) -> None:
        """Take an epoch of a trial or a run into account; after the first, say how long the job takes."""
        self.pace.add(variant, epoch)
        if self.watch:
            self.watch.epoch_ended(epoch)
        if not self._said:
            self._said = True
            self.reporter.detail(
                f"  At the pace of this epoch the whole job takes about {duration(self.seconds_left())}."
            )

    def trial_ended(self, trial: Trial, outcomes: Mapping[Key, Json]) -> None:
        """Say how it went and how long the rest takes."""
        self.outcomes = outcomes
        outcome = outcomes[trial.key]
        if self.watch:
            self.watch.trial_ended(outcome)
        if outcome["status"] == "failed":
            self.reporter.warn(f"  {trial.label} failed. {outcome['failure']}")
        if self._said:
            self.reporter.detail(f"  About {duration(self.seconds_left())} left.")

    def run_ended(self, variant: str, seed: int) -> None:
        """Say how long the rest takes after a final run, if anything is left."""
        self.finals.pop((variant, seed), None)
        if self.finals and self._said:
            self.reporter.detail(f"  About {duration(self.seconds_left())} left.")

    def seconds_left(self) -> float:
        """Of trials and runs that have not ended, at the pace so far."""
        n_val, n_test = self.n_samples["val"], self.n_samples["test"]
        trials = sum(
            self.plan.epochs_left(v, self.outcomes) * self.pace.seconds(v.name, n_val)
            for v in self.config.variants
        )
        finals = sum(n * self.pace.seconds(name, n_val + n_test) for (name, _), n in self.finals.items())
        return trials / self.n_processes + finals


def duration(seconds: float) -> str:
    """A duration in words, to two digits or so."""
    if seconds < 99.5:
        return f"{max(1.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"
