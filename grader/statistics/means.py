"""Ratios and differences of means, and rank correlation: training times, seeds by images, learning curves."""

from collections.abc import Sequence
from itertools import permutations
from math import exp, factorial, inf, log, sqrt
from operator import mul
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from grader.statistics.distributions import student_p, student_quantile
from grader.statistics.proportions import Interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def ratio_of_pairs(
    numerators: Sequence[float], denominators: Sequence[float], confidence: float = 0.95
) -> Interval:
    """Geometric mean of the ratios of paired positive values, with Student's interval on the logarithms.

    Source: "Student", *The probable error of a mean*, Biometrika 6 (1908) 1-25.

    Args:
        numerators: At least one value above 0.
        denominators: The same, in the same order.
        confidence: Coverage probability of the interval.

    Returns:
        The ratio; its limits are 0 and infinity if there is a single pair.
    """
    logs = [log(x) - log(y) for x, y in zip(numerators, denominators, strict=True)]
    mean = fmean(logs)
    if len(logs) < 2:
        return Interval(_exp(mean), 0.0, inf)
    half = student_quantile(0.5 + confidence / 2, len(logs) - 1) * stdev(logs) / sqrt(len(logs))
    return Interval(_exp(mean), _exp(mean - half), _exp(mean + half))


def _exp(x: float) -> float:
    return exp(x) if x < 700 else inf


EXACT_RANKS = 8
"""With at most this many values, all permutations (40,320) are enumerated."""


def spearman(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Spearman's rank correlation and its two-sided p-value.

    With up to eight values the p-value is exact: the share of all permutations of y that correlate at least
    as strongly. With more, it is that of Student's t with n - 2 degrees of freedom, as in
    `scipy.stats.spearmanr`, but at least 2/n!, the share of the two perfect orders. With fewer than three
    values or a constant sample: (0, 1).

    Source: M. G. Kendall and A. Stuart, *The Advanced Theory of Statistics*, vol. 2 (1973), section 31.19.
    """
    n = len(x)
    if n < 3 or len(set(x)) == 1 or len(set(y)) == 1:
        return 0.0, 1.0
    mean = (n + 1) / 2
    from_mean_x = [rank - mean for rank in _ranks(x)]
    from_mean_y = [rank - mean for rank in _ranks(y)]
    cross = sum(map(mul, from_mean_x, from_mean_y))
    spread = sqrt(sum(a * a for a in from_mean_x) * sum(b * b for b in from_mean_y))
    rho = max(-1.0, min(1.0, cross / spread))
    if n <= EXACT_RANKS:
        as_strong = abs(cross) - 1e-9  # sums of half-integer ranks differ by more than rounding errors
        orders = permutations(from_mean_y)
        return rho, sum(abs(sum(map(mul, from_mean_x, y))) >= as_strong for y in orders) / factorial(n)
    least = 2 / factorial(n)
    if abs(rho) == 1:
        return rho, least
    t = abs(rho) * sqrt((n - 2) / ((1 - rho) * (1 + rho)))
    return rho, max(least, student_p(t, n - 2))


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks, starting at 1; ties share their mean rank."""
    ordered = sorted(values)
    first = {value: rank for rank, value in reversed(list(enumerate(ordered, 1)))}
    return [first[value] + (ordered.count(value) - 1) / 2 for value in values]


def difference_over_resplits(
    differences: Sequence[float], test_to_train: float, confidence: float = 0.95, least: float = 0.0
) -> tuple[Interval, float]:
    """Mean difference over seeds that each have a random split of their own.

    The training sets of such splits overlap, so the differences are correlated and their variance divided by
    their number is too small. The corrected variance of the mean is s^2 (1/J + n_test/n_train), with
    Student's t and J - 1 degrees of freedom. Two or three splits may give one difference by chance;
    then s^2 is the variance that drawing the test images alone explains.

    Source: C. Nadeau and Y. Bengio, *Inference for the generalization error*, Machine Learning 52 (2003)
    239-281, section 4.

    Args:
        differences: One difference in test accuracy per split, at least 2.
        test_to_train: Size of the test split divided by that of the training split.
        confidence: Coverage probability of the interval.
        least: Variance of one split's difference due to its test images; 0 if unknown.

    Returns:
        The interval and the two-sided p-value of no difference; without any variance, they tell nothing.
    """
    n, mean = len(differences), fmean(differences)
    error = sqrt((stdev(differences) ** 2 or least) * (1 / n + test_to_train))
    if error == 0:
        return Interval(mean, -1.0, 1.0), 1.0
    half = student_quantile(0.5 + confidence / 2, n - 1) * error
    p = student_p(mean / error, n - 1)
    return Interval(mean, max(-1.0, mean - half), min(1.0, mean + half)), p


def difference_over_seeds(
    differences: "NDArray[np.float64]", confidence: float = 0.95
) -> tuple[Interval, float, float]:
    """Mean difference when both the seeds and the images are samples.

    The variance of the mean is that of a bootstrap over seeds plus that of a bootstrap over images, minus the
    residual variance that both contain. Because the statistic is a mean, all three have closed forms (mean
    squares of a two-way table), so nothing is resampled. Resampling seeds and images at once would count the
    residual three times and make the interval too wide (Owen, *The pigeonhole bootstrap*, Annals of Applied
    Statistics 1 (2007) 386-411). The limits use Student's t with Satterthwaite's degrees of freedom.

    Source: S. R. Searle, G. Casella and C. E. McCulloch, *Variance Components* (1992), chapter 4; F. E.
    Satterthwaite, Biometrics 2 (1946) 110-114.

    Args:
        differences: 1, 0 or -1 per seed and image, shape [seeds x images], at least 2 x 2.
        confidence: Coverage probability of the interval.

    Returns:
        The interval, the two-sided p-value of no difference, and the variance of one image's difference (its
        mean over seeds), from which the sample size needed is estimated.
    """
    n_seeds, n_images = differences.shape
    mean = float(differences.mean())
    seed_means, image_means = differences.mean(axis=1), differences.mean(axis=0)
    residual = differences - seed_means[:, None] - image_means[None, :] + mean
    within = float((residual**2).sum()) / ((n_seeds - 1) * (n_images - 1)) / (n_seeds * n_images)
    seeds = float(seed_means.var(ddof=1)) / n_seeds
    images = float(image_means.var(ddof=1)) / n_images
    variance = max(seeds + images - within, seeds, images)
    if variance == 0:
        return Interval(mean, mean, mean), float(mean == 0), 0.0
    df = variance**2 / (seeds**2 / (n_seeds - 1) + images**2 / (n_images - 1))
    half = student_quantile(0.5 + confidence / 2, df) * sqrt(variance)
    p = student_p(mean / sqrt(variance), df)
    return Interval(mean, mean - half, mean + half), p, float(image_means.var(ddof=1))
