"""Temperature scaling: one number, fitted on validation, that makes probabilities match accuracies.

The predicted class stays the same, since dividing all logits by one number keeps their order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import scipy.optimize
import torch
from torch.nn import functional

from finetune.training.record import Predictions
from grader.statistics.calibration import N_BINS, TEMPERATURES, expected_calibration_error
from grader.submission.parts import Calibration

ROWS = 4096
"""Rows of logits that are converted to float64 at a time."""


def calibrate(
    logits: Callable[[str], Iterable[torch.Tensor]],
    labels: dict[str, torch.Tensor],
    predictions: dict[str, Predictions],
) -> Calibration:
    """Fit the temperature on validation and measure calibration there and on test.

    Args:
        logits: float32 [b x n_classes] of a split, batch by batch, by the network that predicted.
        labels: of `val` and `test`.
        predictions: for them.
    """
    correct = {split: found.predicted == labels[split].numpy() for split, found in predictions.items()}
    errors = {
        split: expected_calibration_error(found.confidence, correct[split])
        for split, found in predictions.items()
    }
    temperature = fit_temperature(
        torch.cat([batch.cpu() for batch in logits("val")]).numpy(), labels["val"].numpy()
    )
    scaled = [(batch / temperature).softmax(dim=1).amax(dim=1).cpu() for batch in logits("test")]
    ece_scaled = expected_calibration_error(torch.cat(scaled).numpy(), correct["test"])
    return Calibration(temperature, errors["val"], errors["test"], ece_scaled, N_BINS)


class Recalibration:
    """Calibration computed again for the grader, from logits as an evaluation makes them.

    Args:
        recorded: the recorded temperature; None if there is none.
    """

    def __init__(self, recorded: float | None) -> None:
        self.recorded = recorded
        self.val: list[torch.Tensor] = []
        self.test: list[torch.Tensor] = []

    def keep(self, split: str) -> Callable[[torch.Tensor], None]:
        """What takes the logits of each batch of `val` or `test`."""
        batches = self.val if split == "val" else self.test
        return lambda logits: batches.append(logits.cpu())

    def record(self, val_labels: npt.NDArray[np.int64], correct: npt.NDArray[np.bool_]) -> dict[str, float]:
        """What must hold: the temperature, and how far the recorded one is from it in its effects.

        Args:
            val_labels: of the validation images, [n].
            correct: which test predictions are, [n].

        Returns:
            `temperature`; `excess`, by which the mean loss on validation at the recorded temperature exceeds
            that at this one, nats; and `ece_test_scaled` at the recorded temperature. The last two are at
            `temperature` itself if none is recorded.
        """
        logits = torch.cat(self.val).numpy()
        temperature = fit_temperature(logits, val_labels)
        used = self.recorded or temperature
        losses = [
            float(
                functional.cross_entropy(torch.from_numpy(logits).double() / t, torch.from_numpy(val_labels))
            )
            for t in (used, temperature)
        ]
        scaled = (torch.cat(self.test) / used).softmax(dim=1).amax(dim=1).numpy()
        return {
            "temperature": temperature,
            "excess": max(0.0, losses[0] - losses[1]),
            "ece_test_scaled": expected_calibration_error(scaled, correct),
        }


def fit_temperature(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """The temperature that minimizes the mean negative log-likelihood (Guo et al. 2017, section 4.2).

    The likelihood is concave in the inverse of the temperature, so its maximum is where the slope is zero.

    Args:
        logits: [n x n_classes].
        labels: [n].

    Returns:
        The temperature, within `TEMPERATURES`.
    """
    low, high = (math.log(t) for t in TEMPERATURES)

    def slope(log_temperature: float) -> float:
        return _slope(logits, labels, math.exp(-log_temperature))

    if slope(low) <= 0:
        return TEMPERATURES[0]
    if slope(high) >= 0:
        return TEMPERATURES[1]
    return math.exp(scipy.optimize.brentq(slope, low, high, xtol=1e-9))


def _slope(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], inverse: float) -> float:
    """Derivative of the summed negative log-likelihood with respect to the inverse temperature."""
    total = 0.0
    for start in range(0, len(labels), ROWS):
        rows = logits[start : start + ROWS].astype(np.float64)
        rows -= rows.max(axis=1, keepdims=True)
        weights = np.exp(rows * inverse)
        expected = (weights * rows).sum(axis=1) / weights.sum(axis=1)
        total += float((expected - rows[np.arange(len(rows)), labels[start : start + ROWS]]).sum())
    return total
