"""Against published worked examples, and against statsmodels 0.15.0 and scipy 1.17.1, to 1e-6."""

import math

import numpy as np
import pytest
import scipy.stats

from grader.statistics import means, proportions
from grader.statistics.proportions import Interval, PairedCounts

# Airway hyper-responsiveness before and after stem cell transplantation: the worked example of Fagerland,
# Lydersen and Laake, Statistics in Medicine 33 (2014), tables I and VII. The cells are in the paper's order.
AIRWAYS = PairedCounts(both=1, first=1, second=7, neither=12)


def close(found: Interval, low: float, high: float, tolerance: float = 1e-6) -> bool:
    return abs(found.low - low) < tolerance and abs(found.high - high) < tolerance


class TestWilson:
    @pytest.mark.parametrize(
        ("right", "n", "confidence", "low", "high"),
        [  # statsmodels.stats.proportion.proportion_confint(method="wilson")
            (0, 10, 0.95, 0.0, 0.2775327998628892),
            (81, 263, 0.95, 0.2552885198782742, 0.36620957698280004),
            (10, 10, 0.99, 0.6011459066950919, 1.0),
            (1054, 1278, 0.95, 0.8029167830190969, 0.8445891891809345),
        ],
    )
    def test_is_that_of_statsmodels(
        self, right: int, n: int, confidence: float, low: float, high: float
    ) -> None:
        assert close(proportions.wilson(right, n, confidence), low, high)

    def test_published(self) -> None:
        # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I: 81 of 263.
        assert close(proportions.wilson(81, 263), 0.2553, 0.3662, 5e-5)

    def test_limits_at_none_and_all_are_exact(self) -> None:
        assert {proportions.wilson(0, n).low for n in range(1, 60)} == {0.0}
        assert {proportions.wilson(n, n).high for n in range(1, 60)} == {1.0}


class TestDifferenceOfIndependent:
    @pytest.mark.parametrize(
        ("x", "n", "y", "m", "low", "high"),
        [  # statsmodels.stats.proportion.confint_proportions_2indep(method="newcomb")
            (56, 70, 48, 80, 0.05243147240236498, 0.33387265403690614),
            (9, 10, 3, 10, 0.1705227239345029, 0.809017973535488),
            (0, 10, 10, 10, -1.0, -0.6075093504305241),
            (1054, 1278, 1000, 1224, -0.022308092886942944, 0.03785293017371827),
        ],
    )
    def test_is_that_of_statsmodels(self, x: int, n: int, y: int, m: int, low: float, high: float) -> None:
        found = proportions.difference_of_independent(proportions.wilson(x, n), proportions.wilson(y, m))
        assert found.estimate == pytest.approx(x / n - y / m)
        assert close(found, low, high)

    def test_published(self) -> None:
        # Newcombe, Statistics in Medicine 17 (1998) 873-890, table II, method 10: 56/70 against 48/80.
        assert close(
            proportions.difference_of_independent(proportions.wilson(56, 70), proportions.wilson(48, 80)),
            0.0524,
            0.3339,
            5e-5,
        )


class TestDifferenceOfClassMeans:
    def test_of_one_class_each_is_agresti_and_caffo(self) -> None:
        # Price and Bonett's interval for two proportions adds one right and one wrong to each; by
        # statsmodels' confint_proportions_2indep(56, 70, 48, 80, method="agresti-caffo").
        found = proportions.difference_of_class_means([(56, 70)], [(48, 80)])
        assert found.estimate == pytest.approx(0.2)
        assert close(found, 0.052452926638053676, 0.33575845547576744)

    def test_narrows_with_the_number_of_classes(self) -> None:
        few = proportions.difference_of_class_means([(80, 100)] * 2, [(80, 100)] * 2)
        many = proportions.difference_of_class_means([(80, 100)] * 8, [(80, 100)] * 8)
        assert few.high - few.low == pytest.approx(2 * (many.high - many.low), rel=0.02)

    def test_of_unequal_classes_by_hand(self) -> None:
        # Two classes against three, so 2/5 is added to right and to wrong answers.
        first, second = [(8, 10), (9, 12)], [(7, 10), (15, 20), (3, 4)]
        found = proportions.difference_of_class_means(first, second)
        assert found.estimate == pytest.approx((0.8 + 0.75) / 2 - (0.7 + 0.75 + 0.75) / 3)
        p = [8.4 / 10.8, 9.4 / 12.8, 7.4 / 10.8, 15.4 / 20.8, 3.4 / 4.8]
        centre = (p[0] + p[1]) / 2 - (p[2] + p[3] + p[4]) / 3
        size, weight = [10.8, 12.8, 10.8, 20.8, 4.8], [1 / 4, 1 / 4, 1 / 9, 1 / 9, 1 / 9]
        variance = sum(w * x * (1 - x) / n for w, x, n in zip(weight, p, size, strict=True))
        half = 1.959963984540054 * math.sqrt(variance)
        assert close(found, centre - half, centre + half)

    def test_the_estimate_is_never_outside(self) -> None:
        many, one = [(10, 10)] * 8, [(500, 500)]  # the adjustment moves the small classes more
        found = proportions.difference_of_class_means(many, one, 0.5)
        assert found.low < found.high == found.estimate == 0
        found = proportions.difference_of_class_means(one, many, 0.5)
        assert 0 == found.estimate == found.low < found.high

    def test_no_errors_are_not_certainty(self) -> None:
        found = proportions.difference_of_class_means([(10, 10)] * 5, [(10, 10)] * 5)
        assert found.estimate == 0
        assert found.low < -0.005
        assert found.high > 0.005


class TestDifferenceOfPaired:
    def test_published(self) -> None:
        assert AIRWAYS.difference == pytest.approx(-0.286, abs=5e-4)
        assert close(proportions.difference_of_paired(AIRWAYS), -0.517, -0.026, 5e-4)

    @pytest.mark.parametrize(
        "table",
        [
            AIRWAYS,
            PairedCounts(80, 25, 10, 155),
            PairedCounts(43, 0, 1, 0),
            PairedCounts(5000, 600, 450, 99),
            PairedCounts(1, 1, 0, 0),
            PairedCounts(0, 1, 1, 1),
            PairedCounts(0, 5, 1, 0),
            PairedCounts(16, 16, 0, 0),  # at the lower limit the root is next to zero
        ],
    )
    def test_the_limits_solve_the_score_equation(self, table: PairedCounts) -> None:
        found, n = proportions.difference_of_paired(table), table.n
        for d in (found.low, found.high):
            # Tango (1998), equations 5 to 7, with q the larger root.
            linear = -table.first - table.second + (2 * n - table.first + table.second) * d
            q = (math.sqrt(linear**2 + 8 * n * table.second * d * (1 - d)) - linear) / (4 * n)
            score = (table.first - table.second - n * d) / math.sqrt(n * (2 * q + d * (1 - d)))
            assert abs(score) == pytest.approx(1.959963984540054, abs=1e-6)

    def test_turning_the_table_turns_the_interval(self) -> None:
        turned = proportions.difference_of_paired(PairedCounts(1, 7, 1, 12))
        assert close(turned, 0.02600303248086864, 0.5172322764213773)

    @pytest.mark.parametrize(
        "table", [PairedCounts(10, 0, 0, 0), PairedCounts(0, 10, 0, 0), PairedCounts(0, 0, 10, 0)]
    )
    def test_extremes_stay_within_one(self, table: PairedCounts) -> None:
        found = proportions.difference_of_paired(table)
        assert -1 <= found.low <= found.estimate <= found.high <= 1
        assert found.high - found.low > 0.1

    def test_all_or_none_leave_one_limit_to_solve(self) -> None:
        # Tango's equation at b = n, c = 0 is solved by (n - z^2) / (n + z^2).
        limit = (10 - 1.959963984540054**2) / (10 + 1.959963984540054**2)
        assert close(proportions.difference_of_paired(PairedCounts(0, 10, 0, 0)), limit, 1.0)
        assert close(proportions.difference_of_paired(PairedCounts(0, 0, 10, 0)), -1.0, -limit)

    def test_of_so_many_images_that_rounding_leaves_no_variance(self) -> None:
        found = proportions.difference_of_paired(PairedCounts(0, 2, 10**9 - 2, 0))
        assert -1 < found.low < found.estimate < found.high < -0.99999997


class TestMcnemar:
    @pytest.mark.parametrize(
        "cells", [(1, 1, 7, 12), (80, 25, 10, 155), (100, 0, 0, 5), (5000, 600, 450, 99), (10, 4, 4, 2)]
    )
    def test_is_the_chi_squared_test_without_correction(self, cells: tuple[int, int, int, int]) -> None:
        _, b, c, _ = cells
        expected = scipy.stats.chi2.sf((b - c) ** 2 / (b + c), 1) if b + c else 1.0
        assert proportions.mcnemar(PairedCounts(*cells)) == pytest.approx(expected, rel=1e-9)

    def test_published(self) -> None:
        assert proportions.mcnemar(AIRWAYS) == pytest.approx(0.034, abs=5e-4)

    @pytest.mark.parametrize(("n", "discordance"), [(40, 0.1), (77, 0.1), (77, 0.3), (270, 0.1), (270, 0.3)])
    def test_the_level_is_close_to_nominal(self, n: int, discordance: float) -> None:
        """Of two equally accurate networks, summed over all tables; the exact test has half."""
        level = 0.0
        for m in range(1, n + 1):
            tables = [PairedCounts(0, b, m - b, n - m) for b in range(m + 1)]
            rejected = [table.first for table in tables if proportions.mcnemar(table) < 0.05]
            within = float(scipy.stats.binom.pmf(rejected, m, 0.5).sum())
            level += float(scipy.stats.binom.pmf(m, n, discordance)) * within
        assert 0.04 < level < 0.055


class TestAgreement:
    """A p-value below alpha and an interval that excludes no difference are one statement."""

    @pytest.mark.parametrize("alpha", [0.05, 0.05 / 3, 0.01])
    def test_of_paired_counts(self, alpha: float) -> None:
        for b in range(25):
            for c in range(25):
                table = PairedCounts(40, b, c, 12)
                interval = proportions.difference_of_paired(table, 1 - alpha)
                assert (proportions.mcnemar(table) < alpha) == (interval.low > 0 or interval.high < 0), (b, c)

    @pytest.mark.parametrize("alpha", [0.05, 0.05 / 3, 0.01])
    def test_of_counts_alone(self, alpha: float) -> None:
        for x, y in [(40, 60), (50, 60), (60, 50), (70, 70), (0, 3), (99, 100)]:

            def interval_at(confidence: float, x: int = x, y: int = y) -> Interval:
                return proportions.difference_of_independent(
                    *(proportions.wilson(k, 100, confidence) for k in (x, y))
                )

            interval = interval_at(1 - alpha)
            assert (proportions.p_of_interval(interval_at) < alpha) == (interval.low > 0 or interval.high < 0)


class TestOthers:
    @pytest.mark.parametrize(
        ("p", "adjusted"),
        [  # statsmodels.stats.multitest.multipletests(method="holm")
            ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
            ([0.0125, 0.5, 0.02, 0.9], [0.05, 1.0, 0.06, 1.0]),
            ([0.7, 0.8], [1.0, 1.0]),
            ([], []),
        ],
    )
    def test_holm(self, p: list[float], adjusted: list[float]) -> None:
        assert proportions.holm(p) == pytest.approx(adjusted)

    def test_ratio_of_pairs(self) -> None:
        # scipy.stats.ttest_1samp(...).confidence_interval() of the logarithms of the ratios.
        found = means.ratio_of_pairs([1.21, 1.18, 1.25, 1.19], [2.02, 1.95, 2.10, 2.04])
        logs = np.log(np.array([1.21, 1.18, 1.25, 1.19]) / np.array([2.02, 1.95, 2.10, 2.04]))
        low, high = np.exp(scipy.stats.ttest_1samp(logs, 0).confidence_interval())
        assert found.estimate == pytest.approx(math.exp(logs.mean()))
        assert close(found, low, high)

    def test_spearman_of_few_values_is_exact(self) -> None:
        # scipy.stats.permutation_test of spearmanr's statistic over all pairings
        rho, p = means.spearman([1, 2, 3, 4, 5, 6, 7], [0.2, 0.5, 0.4, 0.6, 0.6, 0.8, 0.7])
        assert rho == pytest.approx(0.9189562119494703, rel=1e-6)
        assert p == pytest.approx(0.006349206349206349, rel=1e-12)
        assert means.spearman([1, 2, 3], [1, 2, 3]) == (1.0, pytest.approx(1 / 3))

    def test_spearman_of_more_values(self) -> None:
        # scipy.stats.spearmanr
        rho, p = means.spearman(range(10), [0.1, 0.3, 0.2, 0.5, 0.4, 0.7, 0.6, 0.9, 0.8, 0.85])
        assert rho == pytest.approx(0.9272727272727272, rel=1e-6)
        assert p == pytest.approx(0.00011203450639397586, rel=1e-6)
        assert means.spearman(range(10), range(10)) == (1.0, pytest.approx(2 / 3628800))

    def test_spearman_of_a_constant_knows_nothing(self) -> None:
        assert means.spearman([1, 2, 3, 4], [0.5] * 4) == (0.0, 1.0)

    def test_images_needed(self) -> None:
        # Variance 0.25, distance 0.05: 0.25 * ((1.959964 + 0.841621) / 0.05)^2 = 784.888.
        assert proportions.images_needed(0.25, 0.05) == pytest.approx(784.8879, abs=1e-3)
        assert proportions.images_needed(0.25, 0.0) == math.inf

    def test_over_seeds_uses_the_mean_squares_of_the_table(self) -> None:
        # By hand: seed means 0.5, 0; image means 0.5, 0, 0.5, 0; grand mean 0.25; residuals ±0.25.
        differences = np.array([[1.0, 0, 1, 0], [0, 0, 0, 0]])
        found, p, variance = means.difference_over_seeds(differences)
        seeds, images, answers = 0.125 / 2, (4 * 0.0625 / 3) / 4, 8 * 0.0625 / 3 / 8
        assert found.estimate == 0.25
        assert variance == pytest.approx(4 * 0.0625 / 3)
        total = max(seeds + images - answers, seeds)
        df = total**2 / (seeds**2 + images**2 / 3)
        from scipy.stats import t  # the reference here, too slow to import for the product

        half = t.ppf(0.975, df) * math.sqrt(total)
        assert close(found, 0.25 - half, 0.25 + half)
        assert p == pytest.approx(2 * t.sf(0.25 / math.sqrt(total), df))

    def test_seeds_that_agree_on_every_image_leave_no_doubt_about_seeds(self) -> None:
        one = np.repeat([[1.0, 0, 0, -1, 1, 1, 0, 1]], 3, axis=0)
        found, _, _ = means.difference_over_seeds(one)
        standard_error = one[0].std(ddof=1) / math.sqrt(8)
        assert found.high - found.estimate == pytest.approx(2.364624 * standard_error, rel=1e-5)


@pytest.mark.parametrize(
    ("p_values", "steps"),
    [
        ([0.001, 0.02, 0.04], [3, 2, 1]),
        ([0.04, 0.001, 0.03], [2, 3, 2]),  # 0.03 is not below 0.05 / 2, so nothing after it is rejected
        ([0.5, 0.4, 0.3], [3, 3, 3]),
        ([], []),
    ],
)
def test_holms_steps_stop_where_his_test_does(p_values: list[float], steps: list[int]) -> None:
    assert proportions.holm_steps(p_values, 0.05) == steps
    for p, adjusted, step in zip(p_values, proportions.holm(p_values), steps, strict=True):
        assert (p < 0.05 / step) == (adjusted < 0.05)
