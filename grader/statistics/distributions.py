"""Student's t distribution and normal scores.

SciPy has both, but would take up more than half of the grader's image; the tests compare with it.
"""

from functools import lru_cache
from math import exp, lgamma, log, log1p, pi
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PRECISION = 1e-15
MOST_STEPS = 100_000
"""The continued fraction takes some tens, and at most a few times the root of the degrees of freedom."""


def student_p(t: float, df: float) -> float:
    """Two-sided p-value: the probability of a value at least as far from 0 as t.

    It is the regularized incomplete beta function I_x(df/2, 1/2) at x = df/(df + t^2).

    Source: M. Abramowitz and I. A. Stegun, *Handbook of Mathematical Functions* (1964), 26.7.1; NIST Digital
    Library of Mathematical Functions, 8.17.4 and 8.17.22.

    Args:
        t: Any finite value.
        df: Degrees of freedom, above 0, not necessarily an integer.
    """
    a, squared = df / 2, t * t
    x, y = df / (df + squared), squared / (df + squared)
    if x == 0 or y == 0:
        return float(y == 0)
    power = exp(-a * log1p(squared / df) + log(y) / 2 + _log_gamma_ratio(a) - log(pi) / 2)
    if x < (a + 1) / (a + 2.5):
        return power / (a * _fraction(a, 0.5, x))
    return 1 - power / (0.5 * _fraction(0.5, a, y))


def student_quantile(p: float, df: float) -> float:
    """The value below which Student's t falls with probability p.

    Newton's method from the normal quantile, which is too small. The distribution function is concave above
    0, so no step goes too far.

    Args:
        p: At least 0.5 and below 1.
        df: As for `student_p`.
    """
    t = NormalDist().inv_cdf(p)
    constant = _log_gamma_ratio(df / 2) - log(pi * df) / 2
    for _ in range(MOST_STEPS):
        density = exp(constant - (df + 1) / 2 * log1p(t * t / df))
        step = (student_p(t, df) / 2 - (1 - p)) / density
        t += step
        if step <= 1e-14 * t:
            break
    return t


def _log_gamma_ratio(a: float) -> float:
    """Logarithm of gamma(a + 1/2) / gamma(a).

    For large a both logarithms are large and nearly equal, so that most digits of their difference would be
    lost; there an asymptotic series serves, whose next term is below 1e-15.
    """
    if a < 30:
        return lgamma(a + 0.5) - lgamma(a)
    return log(a) / 2 - 1 / (8 * a) + 1 / (192 * a**3) - 1 / (640 * a**5) + 17 / (14336 * a**7)


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction 8.17.22 of the incomplete beta function, by Lentz's method.

    Source: W. J. Lentz, *Generating Bessel functions in Mie scattering calculations using continued
    fractions*, Applied Optics 15 (1976) 668-671.
    """
    value = numerator = 1.0
    denominator = 0.0
    for step in range(1, MOST_STEPS):
        m, is_odd = divmod(step, 2)
        if is_odd:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        denominator = 1 / (1 + term * denominator)
        numerator = 1 + term / numerator
        change = numerator * denominator
        value *= change
        if abs(change - 1) < PRECISION:
            break
    return value


def normal_scores(positions: "NDArray[np.float64] | NDArray[np.int64]", n: int) -> "NDArray[np.float64]":
    """What values of a standard normal sample are expected where these stand in their order, nearly.

    Args:
        positions: Places in ascending order, from 0 to n - 1; ties may share a place between two.
        n: Size of the sample.

    Returns:
        The normal quantile of (position + 1/2) / n, of the same shape.
    """
    scores: NDArray[np.float64] = _scores(n)[(2 * positions).astype(int)]
    return scores


@lru_cache(maxsize=8)
def _scores(n: int) -> "NDArray[np.float64]":
    """For the places 0, 1/2, 1, ..., n - 1."""
    import numpy as np

    quantile = NormalDist().inv_cdf
    return np.array([quantile((twice + 1) / (2 * n)) for twice in range(2 * n - 1)])
