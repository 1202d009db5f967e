"""Compare two variants on the same test images, using the strongest evidence available."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from grader import means, stats
from grader.evidence import Evidence
from grader.findings import Level, in_points
from grader.record import Run
from grader.stats import Interval, PairedCounts

FEW_SEEDS = 2  # too few to estimate a variance over seeds

# The comparisons to which Holm's correction applies.
PAIRS = (("B", "A"), ("C", "A"), ("C", "B"))


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
        details: One line per seed if there are several.
    """

    interval: Interval
    p: float
    test: str
    level: Level
    n_images: int
    variance_per_image: float
    numbers: Mapping[str, float | int]
    details: tuple[str, ...] = ()
    adjusted_p: float = 1.0

    def images_needed(self, distance: float) -> float:
        """Approximate number of test images that would exclude a bound at this distance (80% power)."""
        return stats.images_needed(self.variance_per_image, distance)


def compare(evidence: Evidence, first: str, second: str) -> Comparison | None:
    """Compare two variants; None if they completed no seed in common."""
    found = {pair: _unadjusted(evidence, *pair) for pair in PAIRS}
    tested = {pair: comparison for pair, comparison in found.items() if comparison is not None}
    adjusted = stats.holm([comparison.p for comparison in tested.values()])
    for pair, p in zip(tested, adjusted, strict=True):
        if pair == (first, second):
            comparison = tested[pair]
            numbers = dict(comparison.numbers) | {"p": comparison.p, "adjusted_p": p}
            return replace(comparison, adjusted_p=p, numbers=numbers)
    return None


def _unadjusted(evidence: Evidence, first: str, second: str) -> Comparison | None:
    pairs = evidence.pairs(first, second)
    if not pairs:
        return None
    tables = [evidence.table(*pair) for pair in pairs]
    paired = [table for table in tables if table is not None]
    if len(paired) < len(pairs):
        return _unpaired(pairs, evidence.thresholds.confidence)
    if len(paired) == 1:
        return _one_seed(paired[0], evidence.thresholds.confidence)
    return _several_seeds(evidence, pairs, paired)


def _one_seed(table: PairedCounts, confidence: float) -> Comparison:
    gap = stats.difference_of_paired(table, confidence)
    numbers = _limits(gap) | {
        "only_first_correct": table.first,
        "only_second_correct": table.second,
        "n_images": table.n,
    }
    variance = (table.first + table.second) / table.n - gap.estimate**2
    p = stats.mcnemar_exact(table)
    return Comparison(gap, p, "exact McNemar", Level.PREDICTIONS, table.n, variance, numbers)


def _several_seeds(
    evidence: Evidence, pairs: Sequence[tuple[Run, Run]], tables: Sequence[PairedCounts]
) -> Comparison:
    confidence = evidence.thresholds.confidence
    details = tuple(
        f"seed {pair[0].seed}: {in_points(table.difference)} points, "
        f"exact McNemar {p_text(stats.mcnemar_exact(table))}."
        for pair, table in zip(pairs, tables, strict=True)
    )
    if len(tables) == FEW_SEEDS:
        gap, p, variance = _two_seeds(tables, confidence)
    else:
        import numpy as np

        correct = [[evidence.predictions[run.name, "test"].correct for run in pair] for pair in pairs]
        differences = np.array([x.astype(np.float64) - y for x, y in correct])
        gap, p, variance = means.difference_over_seeds(differences, confidence)
    numbers = _limits(gap) | {"n_seeds": len(pairs), "n_images": tables[0].n}
    test = f"{len(pairs)} seeds,"
    return Comparison(gap, p, test, Level.PREDICTIONS, tables[0].n, variance, numbers, details)


def _two_seeds(tables: Sequence[PairedCounts], confidence: float) -> tuple[Interval, float, float]:
    """Two seeds: the union of their intervals and the larger of their p-values.

    Two values are too few to estimate a variance: by Student's t with one degree of freedom, 40 points with
    one seed and 46 with the other would not be significant. So each seed must be conclusive by itself.
    """
    gaps = [stats.difference_of_paired(table, confidence) for table in tables]
    agree = len({gap.estimate > 0 for gap in gaps}) == 1
    p = max(map(stats.mcnemar_exact, tables)) if agree else 1.0
    variance = fmean((t.first + t.second) / t.n - t.difference**2 for t in tables)
    low, high = min(gap.low for gap in gaps), max(gap.high for gap in gaps)
    return Interval(fmean(gap.estimate for gap in gaps), low, high), p, variance


def _unpaired(pairs: Sequence[tuple[Run, Run]], confidence: float) -> Comparison:
    """Compare the counts alone. Seeds share their test images, so their mean counts as one sample."""
    n = min(run.best.test.n_samples for pair in pairs for run in pair if run.best)
    means = [
        fmean(run.best.test.accuracy for run in runs if run.best) * n for runs in zip(*pairs, strict=True)
    ]
    gap = stats.difference_of_independent(*(stats.wilson(mean, n, confidence) for mean in means))
    p = stats.two_proportions_p((means[0], n), (means[1], n))
    variance = sum(mean / n * (1 - mean / n) for mean in means)
    numbers = _limits(gap) | {"n_images": n}
    return Comparison(gap, p, "unpaired z test,", Level.FILE, n, variance, numbers)


def _limits(gap: Interval) -> dict[str, float | int]:
    return {"difference": gap.estimate, "low": gap.low, "high": gap.high}


def p_text(p: float) -> str:
    """A p-value as text, such as `p = 0.03`."""
    return f"p = {p:.2g}" if p >= 1e-99 else "p < 1e-99"
