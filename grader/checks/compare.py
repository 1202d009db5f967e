"""Compare two variants on the same test images, using the strongest evidence available."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from statistics import fmean

from grader.evidence.gathered import Evidence
from grader.findings import Level, in_points
from grader.statistics import means, proportions
from grader.statistics.proportions import Interval, PairedCounts
from grader.submission.record import Run
from grader.submission.resnet18 import GROUPS

FEW_SEEDS = 2  # too few to estimate a variance over seeds

PAIRS = (("B", "A"), ("C", "A"), ("C", "B"))
"""The comparisons to which Holm's correction applies, with that of B and a longer A if there is one."""


@dataclass(frozen=True)
class Comparison:
    """Test accuracy of one variant minus that of another.

    Attributes:
        interval: The difference, -1 to 1.
        p: Two-sided p-value, unadjusted.
        adjusted_p: The p-value after Holm's correction.
        test: Name of the test.
        level: Evidence used.
        n_images: Number of test images.
        variance_per_image: Variance of the difference times the number of images, to estimate the sample size
            needed.
        numbers: For programs.
        interval_at: The interval at another confidence.
        details: One line per seed if there are several.
        n_tests: Comparisons that Holm's correction counts at this one's step.
        corrected: The interval at the confidence of that step, 1 - (1 - confidence) / n_tests. It excludes 0
            exactly if the adjusted p-value is below 1 - confidence: each p-value is that of its interval.
    """

    interval: Interval
    p: float
    test: str
    level: Level
    n_images: int
    variance_per_image: float
    numbers: Mapping[str, float | int]
    interval_at: Callable[[float], Interval]
    details: tuple[str, ...] = ()
    adjusted_p: float = 1.0
    n_tests: int = 1
    corrected: Interval | None = None

    def images_needed(self, distance: float, confidence: float) -> float:
        """Approximate number of test images that would exclude a bound at this distance (80% power)."""
        return proportions.images_needed(self.variance_per_image, distance, confidence)

    def p_below(self, bound: float) -> float:
        """One-sided p-value of the hypothesis that the true difference is at most `bound`.

        It is found by inverting the interval: half of 1 minus the confidence at which the bound is its limit.
        """
        if self.interval.estimate <= bound:
            return 1.0
        low, high = 0.0, 1.0  # of the confidence
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if self.interval_at(middle).low > bound else (low, middle)
        return (1 - low) / 2


@lru_cache(maxsize=1)  # each question asks for one of them, and all count for its correction
def _tested(evidence: Evidence) -> dict[tuple[str, str], Comparison]:
    """The pairs of variants that completed a seed in common, compared by themselves."""
    found = {pair: unadjusted(evidence, *pair) for pair in pairs_of(evidence)}
    return {pair: comparison for pair, comparison in found.items() if comparison is not None}


def pairs_of(evidence: Evidence) -> tuple[tuple[str, str], ...]:
    """The pairs of variants that are compared: `PAIRS`, and B with a longer A if there is one."""
    longer = longer_scratch(evidence)
    return (*PAIRS, ("B", longer)) if longer else PAIRS


def compare(evidence: Evidence, first: str, second: str) -> Comparison | None:
    """Compare two variants; None if they completed no seed in common."""
    tested = _tested(evidence)
    if (first, second) not in tested:
        return None
    alpha = 1 - evidence.thresholds.confidence
    p_values = [comparison.p for comparison in tested.values()]
    place = list(tested).index((first, second))
    n_tests = proportions.holm_steps(p_values, alpha)[place]
    comparison, adjusted_p = tested[first, second], proportions.holm(p_values)[place]
    corrected = comparison.interval_at(1 - alpha / n_tests)
    numbers = dict(comparison.numbers) | {
        "p": comparison.p,
        "adjusted_p": adjusted_p,
        "corrected_low": corrected.low,
        "corrected_high": corrected.high,
    }
    return replace(comparison, adjusted_p=adjusted_p, n_tests=n_tests, corrected=corrected, numbers=numbers)


def longer_scratch(evidence: Evidence) -> str | None:
    """The variant that trains every layer from random weights for more epochs than the recipe's, if any."""
    results = evidence.results
    return next(
        (
            variant.name
            for variant in results.variants
            if variant.init == "random"
            and set(variant.groups) == set(GROUPS)
            and (variant.epochs or 0) > results.epochs
        ),
        None,
    )


def unadjusted(evidence: Evidence, first: str, second: str) -> Comparison | None:
    """Compare two variants by themselves, without a correction for other comparisons."""
    pairs = evidence.pairs(first, second)
    if not pairs:
        return None
    tables = [evidence.table(*pair) for pair in pairs]
    paired = [table for table in tables if table is not None]
    if evidence.results.resplit and len(pairs) > 1:
        return _resplits(evidence, pairs)
    if len(paired) < len(pairs):
        return _unpaired(pairs, evidence.thresholds.confidence)
    if len(paired) == 1:
        return _one_seed(paired[0], evidence.thresholds.confidence)
    return _several_seeds(evidence, pairs, paired)


def _one_seed(table: PairedCounts, confidence: float) -> Comparison:
    interval_at = partial(proportions.difference_of_paired, table)
    gap = interval_at(confidence)
    numbers = _limits(gap) | {
        "only_first_correct": table.first,
        "only_second_correct": table.second,
        "n_images": table.n,
    }
    variance = (table.first + table.second) / table.n - gap.estimate**2
    p = proportions.mcnemar(table)
    return Comparison(gap, p, "McNemar", Level.PREDICTIONS, table.n, variance, numbers, interval_at)


def _resplits(evidence: Evidence, pairs: Sequence[tuple[Run, Run]]) -> Comparison:
    """Seeds with a split each: the counts of each seed are one value, and training sets overlap."""
    accuracies = [[run.best.test.accuracy if run.best else 0.0 for run in pair] for pair in pairs]
    gaps = [first - second for first, second in accuracies]
    sizes = [evidence.results.splits_of(first.seed) for first, _ in pairs]
    n_test, n_train = (fmean(splits[name].n_samples for splits in sizes) for name in ("test", "train"))
    ratio = n_test / n_train
    tables = [table for pair in pairs if (table := evidence.table(*pair)) is not None]
    sampling = [((t.first + t.second) / t.n - t.difference**2) / t.n for t in tables]
    least = fmean(sampling) if len(sampling) == len(pairs) else 0.0

    def interval_at(confidence: float) -> Interval:
        return means.difference_over_resplits(gaps, ratio, confidence, least)[0]

    gap, p = means.difference_over_resplits(gaps, ratio, evidence.thresholds.confidence, least)
    details = tuple(
        f"seed {pair[0].seed}: {in_points(value)} points." for pair, value in zip(pairs, gaps, strict=True)
    )
    half = max(gap.high - gap.estimate, 0.0) / proportions.normal_quantile(evidence.thresholds.confidence)
    numbers = _limits(gap) | {"n_seeds": len(pairs), "n_images": round(n_test)}
    name = f"{len(pairs)} splits, corrected resampled t"
    return Comparison(
        gap,
        p,
        name,
        Level.PREDICTIONS if least else Level.FILE,
        round(n_test),
        half**2 * n_test,
        numbers,
        interval_at,
        details,
    )


def _several_seeds(
    evidence: Evidence, pairs: Sequence[tuple[Run, Run]], tables: Sequence[PairedCounts]
) -> Comparison:
    confidence = evidence.thresholds.confidence
    details = tuple(
        f"seed {pair[0].seed}: {in_points(table.difference)} points, "
        f"McNemar {p_text(proportions.mcnemar(table))}."
        for pair, table in zip(pairs, tables, strict=True)
    )
    interval_at: Callable[[float], Interval]
    if len(tables) == FEW_SEEDS:
        gap, p, variance = _two_seeds(tables, confidence)

        def interval_at(confidence: float) -> Interval:
            return _two_seeds(tables, confidence)[0]

    else:
        import numpy as np

        correct = [[evidence.predictions[run.name, "test"].correct for run in pair] for pair in pairs]
        differences = np.array([x.astype(np.float64) - y for x, y in correct])
        gap, p, variance = means.difference_over_seeds(differences, confidence)

        def interval_at(confidence: float) -> Interval:
            return means.difference_over_seeds(differences, confidence)[0]

    numbers = _limits(gap) | {"n_seeds": len(pairs), "n_images": tables[0].n}
    test = f"{len(pairs)} seeds,"
    return Comparison(gap, p, test, Level.PREDICTIONS, tables[0].n, variance, numbers, interval_at, details)


def _two_seeds(tables: Sequence[PairedCounts], confidence: float) -> tuple[Interval, float, float]:
    """Two seeds: the union of their intervals and the larger of their p-values.

    Two values are too few to estimate a variance: by Student's t with one degree of freedom, 40 points with
    one seed and 46 with the other would not be significant. So each seed must be conclusive by itself.
    """
    gaps = [proportions.difference_of_paired(table, confidence) for table in tables]
    agree = len({gap.estimate > 0 for gap in gaps}) == 1
    p = max(map(proportions.mcnemar, tables)) if agree else 1.0
    variance = fmean((t.first + t.second) / t.n - t.difference**2 for t in tables)
    low, high = min(gap.low for gap in gaps), max(gap.high for gap in gaps)
    return Interval(fmean(gap.estimate for gap in gaps), low, high), p, variance


def _unpaired(pairs: Sequence[tuple[Run, Run]], confidence: float) -> Comparison:
    """Compare the counts alone. Seeds share their test images, so their mean counts as one sample."""
    n = min(run.best.test.n_samples for pair in pairs for run in pair if run.best)
    means = [
        fmean(run.best.test.accuracy for run in runs if run.best) * n for runs in zip(*pairs, strict=True)
    ]

    def interval_at(confidence: float) -> Interval:
        return proportions.difference_of_independent(
            *(proportions.wilson(mean, n, confidence) for mean in means)
        )

    gap = interval_at(confidence)
    p = proportions.p_of_interval(interval_at)
    variance = sum(mean / n * (1 - mean / n) for mean in means)
    numbers = _limits(gap) | {"n_images": n}
    return Comparison(gap, p, "unpaired,", Level.FILE, n, variance, numbers, interval_at)


def _limits(gap: Interval) -> dict[str, float | int]:
    return {"difference": gap.estimate, "low": gap.low, "high": gap.high}


def p_text(p: float) -> str:
    """A p-value as text, such as `p = 0.03`."""
    return f"p = {p:.2g}" if p >= 1e-99 else "p < 1e-99"
