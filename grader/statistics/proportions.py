"""Tests and intervals for proportions, paired and independent. All proportions are 0 to 1."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import erfc, inf, sqrt
from statistics import NormalDist


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence limits."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PairedCounts:
    """A 2 by 2 table of two networks' predictions for the same images.

    Attributes:
        both: Images that both classify correctly.
        first: Images that only the first classifies correctly.
        second: Images that only the second classifies correctly.
        neither: Images that both misclassify.
    """

    both: int
    first: int
    second: int
    neither: int

    @property
    def n(self) -> int:
        """Number of images."""
        return self.both + self.first + self.second + self.neither

    @property
    def difference(self) -> float:
        """Accuracy of the first minus accuracy of the second."""
        return (self.first - self.second) / self.n


def normal_quantile(confidence: float) -> float:
    """Two-sided standard normal quantile: 1.96 for 0.95."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def wilson(n_correct: float, n: float, confidence: float = 0.95) -> Interval:
    """Wilson's score interval for one proportion.

    Source: E. B. Wilson, *Probable inference, the law of succession, and statistical inference*, JASA 22
    (1927) 209-212.
    """
    p, z = n_correct / n, normal_quantile(confidence)
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(max(0.0, p * (1 - p) / n + z * z / (4 * n * n)))
    # At 0 and n the limit is exact, but rounding would move it slightly outside.
    return Interval(p, 0.0 if p == 0 else max(0.0, center - half), 1.0 if p == 1 else min(1.0, center + half))


def difference_of_independent(first: Interval, second: Interval) -> Interval:
    """Interval for first minus second, combined from their intervals (hybrid score, square-and-add).

    Source: R. G. Newcombe, *Interval estimation for the difference between independent proportions*,
    Statistics in Medicine 17 (1998) 873-890, method 10.
    """
    d = first.estimate - second.estimate
    below = sqrt((first.estimate - first.low) ** 2 + (second.high - second.estimate) ** 2)
    above = sqrt((first.high - first.estimate) ** 2 + (second.estimate - second.low) ** 2)
    return Interval(d, d - below, d + above)


def difference_of_class_means(
    first: Sequence[tuple[int, int]], second: Sequence[tuple[int, int]], confidence: float = 0.95
) -> Interval:
    """Interval for the difference of two means of independent proportions, such as mean per-class accuracy.

    Each mean is unweighted over its classes. With M proportions in total, 2/M correct and 2/M incorrect
    predictions are added to each, and the interval is the normal one around the adjusted difference, so that
    a class without errors does not count as certain.

    Source: R. M. Price and D. G. Bonett, *An improved confidence interval for a linear function of binomial
    proportions*, Computational Statistics & Data Analysis 45 (2004) 449-456.

    Args:
        first: (correct, total) for each class of the first sample; total > 0.
        second: The same for the second sample, which may have other classes.
        confidence: Coverage probability of the interval.
    """
    added = 2 / (len(first) + len(second))
    observed, adjusted, variance = [0.0, 0.0], [0.0, 0.0], 0.0
    for side, counts in enumerate((first, second)):
        for n_correct, n in counts:
            size = n + 2 * added
            p = (n_correct + added) / size
            observed[side] += n_correct / n / len(counts)
            adjusted[side] += p / len(counts)
            variance += p * (1 - p) / size / len(counts) ** 2
    estimate, center = observed[0] - observed[1], adjusted[0] - adjusted[1]
    half = normal_quantile(confidence) * sqrt(variance)
    # The adjustment may move the center past the estimate if a split has no errors.
    return Interval(estimate, min(estimate, center - half), max(estimate, center + half))


def difference_of_paired(table: PairedCounts, confidence: float = 0.95) -> Interval:
    """Interval for the difference of two proportions on the same images: Tango's score interval.

    The limits are the two values d at which the score (b - c - n d) / sqrt(n (2 q(d) + d (1 - d))) equals ±z,
    found by bisection; b and c are the discordant counts, and q(d) is the maximum likelihood estimate of the
    second discordant probability given d.

    Source: T. Tango, *Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design*, Statistics in Medicine 17 (1998) 891-908.
    """
    b, c, n = table.first, table.second, table.n
    z, estimate = normal_quantile(confidence), table.difference

    def score(d: float) -> float:
        linear = -b - c + (2 * n - b + c) * d
        constant = -c * d * (1 - d)
        q = (sqrt(max(0.0, linear * linear - 8 * n * constant)) - linear) / (4 * n)
        variance = n * (2 * q + d * (1 - d))
        if variance <= 0:  # due to rounding, near -1 and 1
            return inf
        return (b - c - n * d) / sqrt(variance)

    def limit(outside: float) -> float:
        inside = estimate
        for _ in range(60):
            middle = (inside + outside) / 2
            if abs(score(middle)) > z:
                outside = middle
            else:
                inside = middle
        return (inside + outside) / 2

    return Interval(estimate, limit(-1.0), limit(1.0))


def mcnemar(table: PairedCounts) -> float:
    """Two-sided p-value of McNemar's score test that two networks are equally accurate.

    Of the b + c images that exactly one network classifies correctly, (b - c) / sqrt(b + c) is compared with
    the standard normal distribution. It is Tango's score at a difference of 0, so the p-value is below alpha
    exactly if his interval at the confidence 1 - alpha excludes 0. Its level stays close to nominal in small
    samples, where the exact conditional test is conservative and no interval agrees with it.

    Source: Q. McNemar, Psychometrika 12 (1947) 153-157; M. W. Fagerland, S. Lydersen and P. Laake, *The
    McNemar test for binary matched-pairs data: mid-p and asymptotic are better than exact conditional*, BMC
    Medical Research Methodology 13 (2013) 91.
    """
    discordant = table.first + table.second
    if discordant == 0:
        return 1.0
    return erfc(abs(table.first - table.second) / sqrt(2 * discordant))


LARGEST_Z = 8.0
"""Beyond it a confidence is 1 in double precision."""


def p_of_interval(interval_at: Callable[[float], Interval]) -> float:
    """Two-sided p-value of no difference: 1 minus the confidence at which one of the limits is 0.

    Args:
        interval_at: The interval at a confidence; wider the higher it is.

    Returns:
        The p-value; 1.2e-15 if it is smaller.
    """
    low, high = 0.0, LARGEST_Z  # standard normal quantiles
    for _ in range(50):
        middle = (low + high) / 2
        interval = interval_at(1 - 2 * NormalDist().cdf(-middle))
        low, high = (middle, high) if interval.low > 0 or interval.high < 0 else (low, middle)
    return 2 * NormalDist().cdf(-high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given.

    Source: S. Holm, *A simple sequentially rejective multiple test procedure*, Scandinavian Journal of
    Statistics 6 (1979) 65-70.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    scaled = [(len(order) - rank) * p_values[index] for rank, index in enumerate(order)]
    adjusted = [0.0] * len(order)
    for index, value in zip(order, accumulate(scaled, max), strict=True):
        adjusted[index] = min(1.0, value)
    return adjusted


def holm_steps(p_values: Sequence[float], alpha: float) -> list[int]:
    """By how many Holm divides alpha for each test, in the order given.

    The smallest p-value is compared with alpha / m, the next with alpha / (m - 1), up to the first that is
    not rejected; that step's divisor also applies to all after it, which are not rejected either. An interval
    at the confidence 1 - alpha / divisor agrees with Holm's test.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    steps, divisor = [0] * len(order), len(order)
    rejects = True
    for rank, index in enumerate(order):
        if rejects:
            divisor = len(order) - rank
            rejects = p_values[index] < alpha / divisor
        steps[index] = divisor
    return steps


def images_needed(variance: float, distance: float, confidence: float = 0.95, power: float = 0.8) -> float:
    """Approximate number of test images at which an interval would exclude a bound.

    n = variance * ((z + z_power) / distance)^2: the sample size at which the normal interval excludes the
    bound with the given power, provided that the observed difference is the true one.

    Source: R. J. Connor, *Sample size for testing differences in proportions for the paired-sample
    design*, Biometrics 43 (1987) 207-211, with the variance under the alternative.

    Args:
        variance: Variance of one image's difference; for paired proportions (b + c) / n - ((b - c) / n)^2.
        distance: Distance from the estimate to the bound, 0 to 1.
        confidence: Confidence of the interval.
        power: Probability of excluding the bound.

    Returns:
        The number of images; infinity if the estimate equals the bound.
    """
    if distance == 0:
        return inf
    return variance * ((normal_quantile(confidence) + NormalDist().inv_cdf(power)) / distance) ** 2
