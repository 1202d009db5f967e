"""Which trials tune the learning rates, how they are ranked, and what they choose; nothing is trained here.

Every variant gets the same peak learning rates, in one or two rounds of trials. A trial is a training run of
its own, with a whole schedule over its epochs. What comes next is a function of what the trials so far have
scored, so an interrupted job goes on from their records alone.

Successive halving: Jamieson and Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter
optimization". An optimum at the edge of what was tried calls for a wider search: Godbole et al. 2023, "Deep
learning tuning playbook".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune.config.experiment import ExperimentConfig, Variant
from finetune.run.records import Json

MAX_EXTENSIONS = 2
"""Steps beyond the grid that a variant may take while its best rate lies at the edge."""

DIGITS = 12
"""Of a rate beyond the grid: the step is a quotient, and its rounding error is nobody's choice."""

VALUES_PER_TRIAL = 14
VALUES_PER_EVALUATION = 4
"""JSON values of a trial without its evaluations, and of one of these."""

Key = tuple[str, int, float]
"""A trial's variant, round and learning rate, of which no two trials have the same."""


@dataclass(frozen=True)
class Round:
    """One round of trials.

    Args:
        epochs: of each trial.
        keep: number of rates of the grid that go on to the next round; 1 in the last.
    """

    epochs: int
    keep: int


@dataclass(frozen=True)
class Trial:
    """One variant trained with one of the rates, to see how well it does on validation.

    Args:
        variant: its name.
        round: from 1.
        learning_rate: peak.
        epochs: planned.
        is_extension: whether the rate lies beyond the grid that all variants share.
    """

    variant: str
    round: int
    learning_rate: float
    epochs: int
    is_extension: bool = False

    @property
    def key(self) -> Key:
        """What tells it from all other trials."""
        return self.variant, self.round, self.learning_rate

    @property
    def stem(self) -> str:
        """The beginning of its checkpoints' names; no variant's name has a dot."""
        return f"{self.variant}.round{self.round}.{self.learning_rate!r}"

    @property
    def label(self) -> str:
        """Its name for people."""
        return f"{self.variant} at {self.learning_rate:.3g}"


def rounds_of(mode: str, epochs: int) -> tuple[Round, ...]:
    """The rounds of a variant whose final runs take so many epochs."""
    if mode == "full":
        return (Round(epochs, 1),)
    return Round(-(-epochs // 4), 2), Round(-(-epochs // 2), 1)


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

    @property
    def rounds(self) -> tuple[Round, ...]:
        """The rounds of a variant with the recipe's epochs."""
        return rounds_of(self.tune.mode, self.config.recipe.epochs)

    def rounds_of(self, variant: Variant) -> tuple[Round, ...]:
        """The rounds of one of the variants, in proportion to its own epochs."""
        return rounds_of(self.tune.mode, self.config.epochs_of(variant))

    def of_variant(self, variant: Variant, outcomes: Mapping[Key, Json]) -> list[Trial]:
        """The trials of a variant that are known to be needed, whether or not they have an outcome yet.

        The grid runs the first round, and of each round its best rates run the next, unless they failed.
        Then, as long as the best rate of the last round lies at the edge of all rates tried, one step beyond
        that edge runs every round, at most `MAX_EXTENSIONS` times.

        Args:
            variant: of the experiment.
            outcomes: entries of the trials that have ended.
        """
        rounds = self.rounds_of(variant)

        def trial(number: int, rate: float, is_extension: bool = False) -> Trial:
            return Trial(variant.name, number, rate, rounds[number - 1].epochs, is_extension)

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
            winner = self._winner(trials, outcomes)
            rate = None if winner is None else beyond(winner.learning_rate, tried)
            if rate is None:
                return trials
            tried = sorted([*tried, rate])
            trials = [*trials, *(trial(number, rate, True) for number in range(1, len(rounds) + 1))]
        return trials

    def _winner(self, trials: Sequence[Trial], outcomes: Mapping[Key, Json]) -> Trial | None:
        """The best trial of the last round; None if all of them failed."""
        last = max(t.round for t in trials)
        ended = [t for t in trials if t.round == last and outcomes[t.key]["status"] == "completed"]
        return min(ended, key=lambda t: score(outcomes[t.key]), default=None)

    def pending(self, outcomes: Mapping[Key, Json]) -> list[Trial]:
        """All trials that can run now, by round; none once every variant has a choice, or cannot have one."""
        trials = [t for v in self.config.variants for t in self.of_variant(v, outcomes)]
        return sorted((t for t in trials if t.key not in outcomes), key=lambda t: t.round)

    def epochs_left(self, variant: Variant, outcomes: Mapping[Key, Json]) -> int:
        """Epochs of the trials that a variant still has before it, unless its best rate lies at an edge."""
        rounds, trials = self.rounds_of(variant), self.of_variant(variant, outcomes)
        left = sum(t.epochs for t in trials if t.key not in outcomes)
        reached = max(t.round for t in trials if not t.is_extension)
        later = zip(rounds[reached - 1 :], rounds[reached:], strict=False)
        return left + (sum(before.keep * after.epochs for before, after in later) if left else 0)

    def record(self, outcomes: Mapping[Key, Json]) -> Json:
        """The `tuning` object of the results.

        Args:
            outcomes: entries of all trials.
        """
        by_variant = {v.name: self.of_variant(v, outcomes) for v in self.config.variants}
        trials = [t for of_one in by_variant.values() for t in of_one]
        choices = []
        for name, of_one in by_variant.items():
            winner = self._winner(of_one, outcomes)
            if winner is not None:
                choices.append(
                    {
                        "variant": name,
                        "learning_rate": winner.learning_rate,
                        "trial": trials.index(winner),
                        "extensions": len({t.learning_rate for t in of_one if t.is_extension}),
                    }
                )
        return {
            "mode": self.tune.mode,
            "seed": self.seed,
            "rates": list(self.tune.rates),
            "rounds": [{"epochs": r.epochs, "keep": r.keep} for r in self.rounds],
            "trials": [outcomes[t.key] for t in trials],
            "choices": choices,
        }


def n_values_of_trials(config: ExperimentConfig) -> int:
    """At most so many JSON values has the record of an experiment's trials."""
    if config.tune is None:
        return 0
    plan, n_values = Plan(config), 0
    for variant in config.variants:
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
