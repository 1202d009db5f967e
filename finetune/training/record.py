"""What training one variant with one seed has produced so far: counts and sums; ratios are derived later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from grader.submission.parts import Metrics as Metrics


@dataclass(frozen=True)
class Predictions:
    """A network's predictions for the images of a split, in the split's order.

    Args:
        predicted: [n] most likely class.
        nll: [n] float32 negative log-likelihood of the label, nats.
        confidence: [n] float32 softmax probability of the predicted class.
    """

    predicted: npt.NDArray[np.int64]
    nll: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.float32]

    def metrics(self, labels: npt.NDArray[np.int64]) -> Metrics:
        """Sums against labels [n], in float64."""
        return Metrics(
            loss_sum=float(self.nll.sum(dtype=np.float64)),
            n_correct=int((self.predicted == labels).sum()),
            n_samples=len(labels),
        )


@dataclass(frozen=True)
class Epoch:
    """One pass over the training split and the evaluations after it; times in seconds.

    `test` is None in trials, which have no test images. The hashes are of the weights and predictions after
    the epoch, and of everything up to it (`grader/submission/commitments.py`); empty where nothing is
    committed to.
    """

    epoch: int
    learning_rate: float
    train: Metrics
    val: Metrics
    test: Metrics | None
    train_seconds: float
    data_wait_seconds: float
    evaluation_seconds: float
    train_cpu_seconds: float = 0.0
    weights_sha256: str = ""
    predictions_sha256: str = ""
    commitment: str = ""

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> Epoch:
        """From what `dataclasses.asdict` made of one."""
        splits = {name: row[name] for name in ("train", "val", "test")}
        return cls(**{**row, **{name: found and Metrics(**found) for name, found in splits.items()}})


@dataclass
class Pass:
    """Sums of the unfinished pass over the training split."""

    batches: int = 0
    samples: int = 0
    loss_sum: float = 0.0
    n_correct: int = 0
    rate_sum: float = 0.0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    wait_seconds: float = 0.0


@dataclass
class Training:
    """What training one variant with one seed has produced so far.

    Args:
        epochs: completed ones, in order.
        current: the unfinished pass.
        steps: optimizer steps taken.
        images: images seen in those steps.
        stream_sha256: digest of every order, crop and flip of the epochs started.
        best_epoch: number of the chosen epoch; None before the first.
        best_predictions: `val` and `test` predictions after that epoch.
        best_logits: the logits behind them, by batch, on the device; empty after a resume or where they would
            take too much memory. Checkpoints leave them out: the best network gives them again.
        failure: why training stopped early, or None.
        seconds: spent on this run before it was last resumed.
    """

    epochs: list[Epoch] = field(default_factory=list)
    current: Pass = field(default_factory=Pass)
    steps: int = 0
    images: int = 0
    stream_sha256: str = ""
    best_epoch: int | None = None
    best_predictions: dict[str, Predictions] = field(default_factory=dict)
    best_logits: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    failure: str | None = None
    seconds: float = 0.0


def best_epoch(epochs: Sequence[Epoch]) -> int:
    """The epoch of highest validation accuracy; ties go to the lower validation loss, then the earlier."""
    return min(epochs, key=lambda e: (-e.val.n_correct, e.val.loss_sum, e.epoch)).epoch
