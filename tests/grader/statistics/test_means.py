"""The edges of what is said of samples: too few values, constant ones, enormous ones."""

import math

import numpy as np
import pytest

from grader.statistics import means
from grader.statistics.means import _ranks
from grader.statistics.proportions import Interval


class TestRatioOfPairs:
    def test_two_pairs_by_hand(self) -> None:
        # Logarithms 0 and 0.2; Student's t with one degree of freedom: 12.7062.
        found = means.ratio_of_pairs([1.0, math.exp(0.2)], [1.0, 1.0])
        assert found.estimate == pytest.approx(math.exp(0.1))
        assert found.high / found.estimate == pytest.approx(math.exp(12.7062 * 0.1), rel=1e-5)
        assert found.estimate / found.low == pytest.approx(math.exp(12.7062 * 0.1), rel=1e-5)

    def test_a_single_pair_has_no_limits(self) -> None:
        assert means.ratio_of_pairs([3.0], [2.0]) == Interval(pytest.approx(1.5), 0.0, math.inf)

    def test_equal_ratios_leave_no_doubt(self) -> None:
        ratio = pytest.approx(1.5)
        assert means.ratio_of_pairs([3.0, 6.0], [2.0, 4.0]) == Interval(ratio, ratio, ratio)

    def test_a_limit_beyond_all_numbers_is_infinite(self) -> None:
        found = means.ratio_of_pairs([1e300, 1e-300], [1.0, 1.0])
        assert (found.low, found.high) == (0.0, math.inf)
        assert found.estimate == pytest.approx(1.0)

    def test_a_ratio_beyond_all_numbers_is_infinite(self) -> None:
        assert means.ratio_of_pairs([1e308], [5e-324]) == Interval(math.inf, 0.0, math.inf)


class TestSpearman:
    @pytest.mark.parametrize(
        ("x", "y"), [([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [4, 4, 4]), ([], [])]
    )
    def test_knows_nothing(self, x: list[float], y: list[float]) -> None:
        assert means.spearman(x, y) == (0.0, 1.0)

    def test_three_values_are_enough(self) -> None:
        assert means.spearman([1, 2, 3], [3, 2, 1]) == (-1.0, pytest.approx(1 / 3))

    def test_eight_values_are_counted_in_all_orders(self) -> None:
        assert means.spearman(range(8), range(8)) == (1.0, pytest.approx(2 / 40320))
        # Seven of the 40,320 orders are one exchange of neighbours away from perfect; as many backwards.
        rho, p = means.spearman(range(8), [1, 0, *range(2, 8)])
        assert rho == pytest.approx(1 - 6 * 2 / (8 * 63))
        assert p == pytest.approx(2 * (1 + 7) / 40320)

    def test_nine_values_are_students(self) -> None:
        # scipy.stats.spearmanr
        rho, p = means.spearman(range(9), [2, 1, 4, 3, 6, 5, 8, 7, 9])
        assert rho == pytest.approx(1 - 6 * 8 / (9 * 80))
        from scipy.stats import spearmanr

        assert p == pytest.approx(spearmanr(range(9), [2, 1, 4, 3, 6, 5, 8, 7, 9]).pvalue)
        assert means.spearman(range(9), range(9, 0, -1)) == (-1.0, pytest.approx(2 / 362880))

    def test_never_less_than_the_perfect_orders_make_up(self) -> None:
        y = [*range(11), 12, 11]
        rho, p = means.spearman(range(13), y)
        assert rho < 1
        assert p >= 2 / math.factorial(13)

    def test_ties_share_their_mean_rank(self) -> None:
        assert _ranks([3.0, 1.0, 3.0, 2.0, 3.0]) == [4.0, 1.0, 4.0, 2.0, 4.0]


class TestOverSeeds:
    @pytest.mark.parametrize(("value", "p"), [(0.0, 1.0), (1.0, 0.0), (-1.0, 0.0)])
    def test_answers_that_never_vary(self, value: float, p: float) -> None:
        found = means.difference_over_seeds(np.full((3, 5), value))
        assert found == (Interval(value, value, value), p, 0.0)

    def test_both_sources_of_doubt_add_up(self) -> None:
        # Additive: no residual, so the variance is that of seeds plus that of images.
        differences = np.add.outer([0.0, 0.5, 1.0], [-1.0, -0.5, 0.0, 0.0])
        found, p, variance = means.difference_over_seeds(differences, 0.9)
        images = np.var([-1.0, -0.5, 0.0, 0.0], ddof=1)
        seeds, mean = 0.25 / 3, 0.5 - 0.375
        total = seeds + images / 4
        df = total**2 / (seeds**2 / 2 + (images / 4) ** 2 / 3)
        from scipy.stats import t

        half = t.ppf(0.95, df) * math.sqrt(total)
        assert variance == pytest.approx(images)
        assert found.estimate == pytest.approx(mean)
        assert (found.low, found.high) == (pytest.approx(mean - half), pytest.approx(mean + half))
        assert p == pytest.approx(2 * t.sf(mean / math.sqrt(total), df))

    def test_single_answers_are_counted_once(self) -> None:
        differences = np.random.default_rng(5).integers(-1, 2, (4, 6)) + np.arange(4)[:, None] / 4
        differences += np.array([-0.6, 0.4, 0.1, 0.9, -0.8, 0.0])
        found, _, _ = means.difference_over_seeds(differences)
        # Searle, Casella and McCulloch's mean squares: of rows, of columns, of what is left.
        rows, columns = differences.mean(axis=1), differences.mean(axis=0)
        of_rows, of_columns = 6 * rows.var(ddof=1), 4 * columns.var(ddof=1)
        all_squares = differences.var() * 24
        left = (all_squares - 3 * of_rows - 5 * of_columns) / 15
        assert 0 < left < min(of_rows, of_columns)
        total = (of_rows + of_columns - left) / 24
        df = total**2 / ((of_rows / 24) ** 2 / 3 + (of_columns / 24) ** 2 / 5)
        from scipy.stats import t

        assert found.high - found.estimate == pytest.approx(t.ppf(0.975, df) * math.sqrt(total))


def test_seeds_that_differ_more_than_single_answers_explain() -> None:
    """Images that do not differ at all leave the variance between seeds, never less."""
    interval, p, _ = means.difference_over_seeds(np.array([[1, 0], [-1, 0]], dtype=np.float64))
    assert interval.high == pytest.approx(12.7062 * 0.5, abs=1e-3)  # Student's t with one degree of freedom
    assert interval.low == -interval.high
    assert p == 1
