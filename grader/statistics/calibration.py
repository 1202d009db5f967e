"""How far stated probabilities are from the share of predictions that are correct."""

import numpy as np
from numpy.typing import NDArray

N_BINS = 15
"""Bins of equal width, as in Guo et al. 2017."""

TEMPERATURES = (0.01, 100.0)
"""Between which a temperature is fitted; a network that is right on all validation images has no best one."""

SUM_ERROR = 2e-6
"""Of the float32 probabilities of an image, which should add up to 1, and of a probability near 1."""


def expected_calibration_error(
    confidence: NDArray[np.floating], correct: NDArray[np.bool_], n_bins: int = N_BINS
) -> float:
    """Mean distance between confidence and accuracy, over bins of confidence weighted by their size.

    Args:
        confidence: Probability of the predicted class, shape [n].
        correct: Whether the prediction is correct, shape [n].
        n_bins: Number of bins; bin m contains confidences above (m - 1) / n_bins and up to m / n_bins.

    Returns:
        The error, 0 to 1: C. Guo et al., "On calibration of modern neural networks" (ICML 2017), equation 3.
    """
    exact = confidence.astype(np.float64)
    bins = np.clip(np.ceil(exact * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    gaps = np.bincount(bins, weights=exact - correct, minlength=n_bins)
    return float(np.abs(gaps).sum() / len(exact))


def loss_limits(
    nll: NDArray[np.float64],
    confidence: NDArray[np.float64],
    correct: NDArray[np.bool_],
    n_classes: int,
    temperatures: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Between what limits the mean loss lies if logits are divided by a temperature, in nats.

    Two of the probabilities of an image are known: the label's and the largest. The rest is divided among the
    other classes in an unknown way, none of which gets more than the largest. The sum of their powers p^(1/T)
    is largest if they are equal and least if they are as unequal as possible where T > 1, since the power is
    concave, and the other way round where T < 1. With two classes, nothing is unknown.

    Args:
        nll: Negative log-likelihood of the label at temperature 1, shape [n].
        confidence: Probability of the predicted class at temperature 1, shape [n].
        correct: Whether the prediction is correct, shape [n].
        n_classes: Number of classes.
        temperatures: Shape [t].

    Returns:
        The lower and the upper limits, both of shape [t].
    """
    log_of_label = -nll
    log_of_most = np.where(correct, log_of_label, np.log(confidence))
    known = np.where(correct, np.exp(log_of_label), np.exp(log_of_most) + np.exp(log_of_label))
    rest = np.where(correct, -np.expm1(log_of_label), 1 - known)
    n_others = np.where(correct, n_classes - 1, n_classes - 2)
    limits = []
    for error in (-SUM_ERROR, SUM_ERROR):
        # As multiples of the largest probability, which cancels; no class has more than one of them.
        share = np.clip((rest + error) / np.exp(log_of_most), 0, n_others)
        limits.append(
            [
                _mean_loss(share, n_others, log_of_label - log_of_most, correct, 1 / t, bool(error > 0))
                for t in temperatures
            ]
        )
    return np.array(limits[0]), np.array(limits[1])


def _mean_loss(
    share: NDArray[np.float64],
    n_others: NDArray[np.int64],
    log_ratio: NDArray[np.float64],
    correct: NDArray[np.bool_],
    power: float,
    is_upper: bool,
) -> float:
    """One limit of the mean loss, at the inverse `power` of a temperature."""
    n = np.maximum(n_others, 1)
    if is_upper == (power < 1):
        others = n * (share / n) ** power
    else:
        others = np.floor(share) + (share - np.floor(share)) ** power
    others = np.where(n_others > 0, others, 0.0)
    of_label = np.where(correct, 0.0, np.exp(power * log_ratio))
    losses = np.log(1 + of_label + others) - np.where(correct, 0.0, power * log_ratio)
    return float(losses.mean())
