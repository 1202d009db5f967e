"""How long a job still takes: the epochs that lie before it, at the pace of those behind it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from statistics import fmean

from finetune.config.experiment import GROUPS, ExperimentConfig, Variant
from finetune.run.records import Pair
from finetune.training.record import Epoch
from grader.submission.resnet18 import multiplications

FORWARD = multiplications(224, 2)
"""Multiplications of a forward pass by group; their shares hardly depend on image size and classes."""


def step_cost(variant: Variant) -> float:
    """What a training step costs, in forward passes: one, and two more over the layers that gradients reach.

    Gradients reach back to the first group that trains; a backward pass computes gradients of inputs and of
    weights, each of which takes as many multiplications as the forward pass.
    """
    first = min(GROUPS.index(group) for group in variant.groups)
    return 1 + 2 * sum(FORWARD[group] for group in GROUPS[first:]) / sum(FORWARD.values())


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

    @property
    def is_known(self) -> bool:
        """Whether an epoch has been added."""
        return bool(self._training)

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


class TimeLeft:
    """The epochs that a job still has before it, and how long they take.

    Args:
        config: of the job.
        pairs: final runs of this process that have not ended.
        n_samples: images by split.
    """

    def __init__(self, config: ExperimentConfig, pairs: Iterable[Pair], n_samples: Mapping[str, int]) -> None:
        self.pace = Pace(config.variants)
        epochs = {v.name: config.epochs_of(v) for v in config.variants}
        self.runs = {pair: epochs[pair[0]] for pair in pairs}
        """Epochs that each final run still has before it."""
        self.trials: Callable[[], Mapping[str, int]] = dict
        """Epochs of the trials that have not ended, by variant; of the one under way, all are counted."""
        self.under_way: tuple[str, int] | None = None
        """Variant of the trial under way, and how many of its epochs have ended."""
        self.n_processes = 1
        """Processes among which the trials are dealt out."""
        self._n_val, self._n_test = n_samples["val"], n_samples["test"]

    def seconds(self) -> float | None:
        """Left for the whole job at the pace so far; None before the first epoch has ended."""
        if not self.pace.is_known:
            return None
        trials = dict(self.trials())
        if self.under_way and self.under_way[0] in trials:
            trials[self.under_way[0]] -= self.under_way[1]
        of_trials = sum(max(0, n) * self.pace.seconds(name, self._n_val) for name, n in trials.items())
        held_out = self._n_val + self._n_test
        of_runs = sum(n * self.pace.seconds(name, held_out) for (name, _), n in self.runs.items())
        return of_trials / self.n_processes + of_runs


def duration(seconds: float) -> str:
    """A duration in words, to two digits or so."""
    if seconds < 99.5:
        return f"{max(1.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"
