"""How far stated probabilities are from the share of predictions that are correct."""

import numpy as np
from numpy.typing import NDArray

N_BINS = 15
"""Bins of equal width, as in Guo et al. 2017."""


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
