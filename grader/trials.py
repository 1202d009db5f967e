"""The trials that chose the learning rates, as records; `record.py` builds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grader.record import Metrics


@dataclass(frozen=True, slots=True)
class Round:
    """A round of tuning: epochs of a trial, for a variant with the recipe's, and how many rates it keeps."""

    epochs: int
    keep: int


@dataclass(frozen=True, slots=True)
class Trial:
    """A training with one peak learning rate, evaluated on the validation split only."""

    variant: str
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
    train_seconds: float


@dataclass(frozen=True, slots=True)
class Choice:
    """The peak learning rate chosen for a variant, and the trial of the last round that won."""

    variant: str
    learning_rate: float
    trial: int
    extensions: int


@dataclass(frozen=True, slots=True)
class Tuning:
    """The trials that chose each variant's peak learning rate."""

    mode: str
    seed: int
    rates: tuple[float, ...]
    rounds: tuple[Round, ...]
    trials: tuple[Trial, ...]
    choices: tuple[Choice, ...]
