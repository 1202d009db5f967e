"""Which trials tune the learning rates, how they are ranked, and what they choose; nothing is trained here.

Every variant gets the same peak learning rates, in one or two rounds of trials. A trial is a training run of
its own, with a whole schedule over its epochs. What comes next is a function of what the trials so far have
scored, so an interrupted job continues from their records alone.

If each seed has a split of its own, each has trials of its own too: a test image of one split is a training
image of another, so only trials on a seed's own training and validation images never see its test images. If
a variant takes its head from another one, that one is tuned first, and the trials start from the head of the
trial that it chose.

Successive halving: Jamieson and Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter
optimization". An optimum at the edge of what was tried calls for a wider search: Godbole et al. 2023, "Deep
learning tuning playbook".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune.config.experiment import ExperimentConfig, Variant
from finetune.run.records import Json
from grader.findings import rate_text
from grader.submission.trials import Round, label

MAX_EXTENSIONS = 2
"""Steps beyond the grid that a variant may take while its best rate lies at the edge."""

DIGITS = 12
"""Of a rate beyond the grid: the step is a quotient, and its rounding error is nobody's choice."""

VALUES_PER_TRIAL = 17
VALUES_PER_EVALUATION = 12
"""JSON values of a trial without its evaluations, and of one of these with its commitment."""

Key = tuple[str, int | None, int, float]
"""A trial's variant, seed that it is for, round and learning rate; no two trials have the same."""

Target = tuple[Variant, int | None]
"""What a rate is chosen for: a variant, and the seed of its final run if each seed has a split of its own."""


@dataclass(frozen=True)
class Trial:
    """One variant trained with one of the rates, to see how well it does on validation.

    Args:
        variant: its name.
        round: from 1.
        learning_rate: peak.
        epochs: planned.
        is_extension: whether the rate lies beyond the grid that all variants share.
        for_seed: the seed on whose split it trains, and for whose final run it is; None if all seeds share
            one split.
    """

    variant: str
    round: int
    learning_rate: float
    epochs: int
    is_extension: bool = False
    for_seed: int | None = None

    @property
    def key(self) -> Key:
        """What tells it from all other trials."""
        return self.variant, self.for_seed, self.round, self.learning_rate

    @property
    def stem(self) -> str:
        """The beginning of its checkpoints' names; no variant's name has a dot."""
        own = "" if self.for_seed is None else f".seed{self.for_seed}"
        return f"{self.variant}{own}.round{self.round}.{self.learning_rate!r}"

    @property
    def label(self) -> str:
        """Its name for people."""
        return f"{label((self.variant, self.for_seed))} at {rate_text(self.learning_rate)}"


def rounds_of(mode: str, epochs: int) -> tuple[Round, ...]:
    """The rounds of a variant whose final runs take so many epochs.

    With one or two epochs, half of them is no more than a quarter: a second round would repeat the first, so
    there is one.
    """
    if mode == "full":
        return (Round(epochs, 1),)
    quarter, half = max(1, (epochs + 2) // 4), (epochs + 1) // 2  # rounded, halves up
    return (Round(half, 1),) if quarter == half else (Round(quarter, 2), Round(half, 1))


def score(outcome: Json) -> tuple[bool, int, float, float]:
    """The smaller, the better: the best epoch by validation accuracy, then loss; then the lower rate.

    Args:
        outcome: entry of a trial in the results; one that failed comes last, whatever it scored before.
    """
    if outcome["status"] == "failed":
        return True, 0, 0.0, outcome["learning_rate"]
    n_correct, loss_sum = min((-e["n_correct"], e["loss_sum"]) for e in outcome["validation"])
    return False, n_correct, loss_sum, outcome["learning_rate"]


class Plan:
    """What the trials of an experiment are, given what those before them scored.

    Args:
        config: of the experiment, which is tuned.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        assert config.tune is not None  # noqa: S101 - asked for only where an experiment is tuned
        self.tune = config.tune
        self.config = config
        self.seed = config.tuning_seed
        self.by_name = {v.name: v for v in config.variants}

    @property
    def rounds(self) -> tuple[Round, ...]:
        """The rounds of a variant with the recipe's epochs."""
        return rounds_of(self.tune.mode, self.config.recipe.epochs)

    def rounds_of(self, variant: Variant) -> tuple[Round, ...]:
        """The rounds of one of the variants, in proportion to its own epochs."""
        return rounds_of(self.tune.mode, self.config.epochs_of(variant))

    @property
    def targets(self) -> list[Target]:
        """What rates are chosen for, in the order of the trials."""
        seeds = self.config.seed_list if self.config.resplit else (None,)
        return [(variant, seed) for seed in seeds for variant in self.config.variants]

    def of_target(self, target: Target, outcomes: Mapping[Key, Json]) -> list[Trial]:
        """The trials for a target that are known to be needed, whether or not they have an outcome yet.

        The grid runs the first round, and of each round its best rates run the next, unless they failed.
        Then, as long as the best rate of the last round lies at the edge of all rates tried, one step beyond
        that edge runs every round, at most `MAX_EXTENSIONS` times. There are none before the variant that
        gives the head has a choice, and none at all if it cannot have one.

        Args:
            target: a variant of the experiment, and the seed if each has a split of its own.
            outcomes: entries of the trials that have ended.
        """
        variant, for_seed = target
        rounds = self.rounds_of(variant)
        if variant.head is not None and self.head_of(target, outcomes) is None:
            return []

        def trial(number: int, rate: float, is_extension: bool = False) -> Trial:
            return Trial(variant.name, number, rate, rounds[number - 1].epochs, is_extension, for_seed)

        before = trials = [trial(1, rate) for rate in self.tune.rates]
        for number in range(2, len(rounds) + 1):
            if any(t.key not in outcomes for t in before):
                return trials
            ended = [outcomes[t.key] for t in before if outcomes[t.key]["status"] == "completed"]
            best = sorted(ended, key=score)[: rounds[number - 2].keep]
            before = [trial(number, rate) for rate in sorted(o["learning_rate"] for o in best)]
            trials = [*trials, *before]
        tried = list(self.tune.rates)
        for _ in range(MAX_EXTENSIONS):
            if any(t.key not in outcomes for t in trials):
                return trials
            winner = self._best(trials, outcomes)
            rate = None if winner is None else beyond(winner.learning_rate, tried)
            if rate is None:
                return trials
            tried = sorted([*tried, rate])
            trials = [*trials, *(trial(number, rate, True) for number in range(1, len(rounds) + 1))]
        return trials

    def _best(self, trials: Sequence[Trial], outcomes: Mapping[Key, Json]) -> Trial | None:
        """The best trial of the last round; None if all of them failed."""
        last = max((t.round for t in trials), default=0)
        ended = [t for t in trials if t.round == last and outcomes[t.key]["status"] == "completed"]
        return min(ended, key=lambda t: score(outcomes[t.key]), default=None)

    def is_decided(self, target: Target, outcomes: Mapping[Key, Json]) -> bool:
        """Whether all trials for a target have ended, and those on which they depend."""
        variant, for_seed = target
        waits = variant.head and not self.is_decided((self.by_name[variant.head], for_seed), outcomes)
        return not waits and all(t.key in outcomes for t in self.of_target(target, outcomes))

    def choice(self, target: Target, outcomes: Mapping[Key, Json]) -> Trial | None:
        """The trial that a target chooses; None as long as it is not decided, or if it cannot have one."""
        trials = self.of_target(target, outcomes) if self.is_decided(target, outcomes) else []
        return self._best(trials, outcomes)

    def head_of(self, target: Target, outcomes: Mapping[Key, Json]) -> Trial | None:
        """The trial whose head the trials for a target start from, chosen by the variant that gives it."""
        variant, for_seed = target
        return self.choice((self.by_name[variant.head], for_seed), outcomes) if variant.head else None

    def gives_head(self, name: str) -> bool:
        """Whether another variant takes its head from the one of that name."""
        return any(v.head == name for v in self.config.variants)

    def pending(self, outcomes: Mapping[Key, Json]) -> list[Trial]:
        """All trials that can run now, by seed and round; none once no target can have another one.

        Trials for one seed come together, so that they share the features of its images.
        """
        trials = [t for target in self.targets for t in self.of_target(target, outcomes)]
        return sorted((t for t in trials if t.key not in outcomes), key=lambda t: (t.for_seed or 0, t.round))

    def epochs_left(self, variant: Variant, outcomes: Mapping[Key, Json]) -> int:
        """Epochs of the trials that a variant still has before it, unless its best rate lies at an edge."""
        return sum(self._epochs_left(target, outcomes) for target in self.targets if target[0] == variant)

    def _epochs_left(self, target: Target, outcomes: Mapping[Key, Json]) -> int:
        rounds, trials = self.rounds_of(target[0]), self.of_target(target, outcomes)
        if not trials:  # they wait for another variant's choice, unless it has none
            if self.is_decided(target, outcomes):
                return 0
            return len(self.tune.rates) * rounds[0].epochs + _later(rounds, 1)
        left = sum(t.epochs for t in trials if t.key not in outcomes)
        reached = max(t.round for t in trials if not t.is_extension)
        return left + (_later(rounds, reached) if left else 0)

    def record(self, outcomes: Mapping[Key, Json]) -> Json:
        """The `tuning` object of the results.

        Args:
            outcomes: entries of all trials.
        """
        by_target = {(v.name, seed): self.of_target((v, seed), outcomes) for v, seed in self.targets}
        trials = [t for of_one in by_target.values() for t in of_one]
        choices = []
        for (name, for_seed), of_one in by_target.items():
            winner = self._best(of_one, outcomes)
            if winner is not None:
                choices.append(
                    {
                        "variant": name,
                        "for_seed": for_seed,
                        "learning_rate": winner.learning_rate,
                        "trial": trials.index(winner),
                        "extensions": len({t.learning_rate for t in of_one if t.is_extension}),
                    }
                )
        return {
            "mode": self.tune.mode,
            "seed": self.seed,
            "rates": list(self.tune.rates),
            "rounds": [dataclasses.asdict(r) for r in self.rounds],
            "trials": [outcomes[t.key] for t in trials],
            "choices": choices,
        }


def _later(rounds: Sequence[Round], reached: int) -> int:
    """Epochs of the trials on the grid in the rounds after the one that is reached."""
    return sum(b.keep * a.epochs for b, a in zip(rounds[reached - 1 :], rounds[reached:], strict=False))


def n_values_of_trials(config: ExperimentConfig) -> int:
    """At most so many JSON values has the record of an experiment's trials."""
    if config.tune is None:
        return 0
    plan, n_values = Plan(config), 0
    for variant, _ in plan.targets:
        n_rates = len(config.tune.rates)
        for of_round in plan.rounds_of(variant):
            n_values += (n_rates + MAX_EXTENSIONS) * (
                VALUES_PER_TRIAL + of_round.epochs * VALUES_PER_EVALUATION
            )
            n_rates = of_round.keep
    return n_values


def beyond(rate: float, tried: Sequence[float]) -> float | None:
    """The rate one step beyond the edge, as far from it as its neighbor; None if `rate` is not at an edge.

    Args:
        rate: one of those tried.
        tried: at least two rates, ascending.
    """
    neighbor = {tried[0]: tried[1], tried[-1]: tried[-2]}.get(rate)
    return None if neighbor is None else float(f"{rate * rate / neighbor:.{DIGITS}g}")
