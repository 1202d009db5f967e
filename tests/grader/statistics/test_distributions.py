"""Against SciPy, which finetune has and the grader does without."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from grader.statistics.distributions import normal_scores, student_p, student_quantile

DEGREES = (*range(1, 41), 59.99, 60, 60.01, 0.5, 1.5, 2.3, 7.77, 101.5, 998, 7166, 61_489.3, 1e6)


@pytest.mark.parametrize("df", DEGREES)
def test_p_values(df: float) -> None:
    """From no difference to one that no sample shows, and around t = sqrt(3), where the branch changes."""
    for t in (0.1, 0.5, *np.linspace(1.5, 2, 11), 2.5, 4, 8, 15, 30, 100, 1e4):
        assert student_p(t, df) == pytest.approx(2 * special.stdtr(df, -t), rel=1e-10, abs=1e-290)
        assert student_p(-t, df) == student_p(t, df)
    # Here stdtr itself is off by up to 1e-9; Student's density is flat.
    density = student_density_at_0(df)
    for t in (0.0, 1e-12, 1e-9, 1e-6):
        assert 1 - student_p(t, df) == pytest.approx(2 * t * density, rel=1e-6, abs=1e-15)


def student_density_at_0(df: float) -> float:
    return float(special.poch(df / 2, 0.5) / np.sqrt(np.pi * df))


@pytest.mark.parametrize("df", DEGREES)
def test_quantiles(df: float) -> None:
    for p in (0.6, 0.9, 0.95, 0.975, 0.99, 0.9975, 0.999, 0.99999, 1 - 1e-9):
        assert student_quantile(p, df) == pytest.approx(special.stdtrit(df, p), rel=1e-9)
    assert student_quantile(0.5, df) == 0
    assert student_quantile(0.500001, df) == pytest.approx(1e-6 / student_density_at_0(df), rel=1e-9)


def test_closed_forms() -> None:
    # df = 1 is Cauchy's distribution; df = 2: t = (2p - 1) / sqrt(2 p (1 - p)).
    assert student_p(1, 1) == pytest.approx(0.5, rel=1e-14)
    assert student_quantile(0.975, 1) == pytest.approx(np.tan(np.pi * 0.475), rel=1e-12)
    assert student_quantile(0.975, 2) == pytest.approx(0.95 / np.sqrt(2 * 0.975 * 0.025), rel=1e-12)


@pytest.mark.parametrize(("t", "p"), [(1e200, 0.0), (1e-200, 1.0)])
def test_beyond_all_precision(t: float, p: float) -> None:
    assert student_p(t, 3) == p


@pytest.mark.parametrize("n", [1, 2, 9, 7167])
def test_normal_scores(n: int) -> None:
    positions = np.arange(2 * n - 1).reshape(1, -1) / 2
    expected = special.ndtri((positions + 0.5) / n)
    np.testing.assert_allclose(normal_scores(positions, n), expected, rtol=1e-13, atol=1e-15)


def test_places_in_the_order() -> None:
    order = np.array([[2, 0, 1], [0, 1, 2]])
    found = normal_scores(order, 3)
    assert found.shape == (2, 3)
    np.testing.assert_allclose(found[1], [-0.9674215661, 0, 0.9674215661], atol=1e-10)
    np.testing.assert_array_equal(found[0], found[1][[2, 0, 1]])
