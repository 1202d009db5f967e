"""The trials that chose the learning rates, as records; `record.py` builds them."""

from dataclasses import dataclass

from grader.submission.parts import Metrics

Target = tuple[str, int | None]
"""What a rate is chosen for: a variant, and the seed of its final run if each seed has a split of its own."""


def label(target: Target) -> str:
    """What a rate is chosen for, in messages."""
    variant, for_seed = target
    return variant if for_seed is None else f"{variant} for seed {for_seed}"


@dataclass(frozen=True, slots=True)
class Round:
    """A round of trials.

    Attributes:
        epochs: Of each trial; the results file has those of a variant with the recipe's epochs.
        keep: How many rates of the grid go on to the next round; 1 in the last.
    """

    epochs: int
    keep: int


@dataclass(frozen=True, slots=True)
class TrialCommitment:
    """What a trial committed to after an epoch."""

    train: Metrics
    weights_sha256: str
    predictions_sha256: str
    commitment: str


@dataclass(frozen=True, slots=True)
class Trial:
    """A training with one peak learning rate, evaluated on the validation split only.

    Attributes:
        for_seed: Seed of the final run that it is for, if each seed has a split of its own.
    """

    variant: str
    for_seed: int | None
    learning_rate: float
    seed: int
    round: int
    is_extension: bool
    epochs: int
    status: str
    failure: str | None
    initial_sha256: str
    stream_sha256: str
    validation: tuple[Metrics, ...]
    commitments: tuple[TrialCommitment, ...]
    train_seconds: float
    train_cpu_seconds: float

    @property
    def target(self) -> Target:
        """What it is for."""
        return self.variant, self.for_seed

    @property
    def name(self) -> str:
        """Its name in messages."""
        return f"{label(self.target)}, trial at {self.learning_rate:.3g} in round {self.round}"


@dataclass(frozen=True, slots=True)
class Choice:
    """The peak learning rate chosen for a variant, and the trial of the last round that won."""

    variant: str
    for_seed: int | None
    learning_rate: float
    trial: int
    extensions: int

    @property
    def target(self) -> Target:
        """What it is for."""
        return self.variant, self.for_seed


@dataclass(frozen=True, slots=True)
class Tuning:
    """The trials that chose each variant's peak learning rate."""

    mode: str
    seed: int
    rates: tuple[float, ...]
    rounds: tuple[Round, ...]
    trials: tuple[Trial, ...]
    choices: tuple[Choice, ...]
