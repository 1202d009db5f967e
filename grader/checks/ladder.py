"""How many layers must be trained: rows that train ever more of the same pretrained network."""

from itertools import pairwise

from grader.checks.compare import Comparison, p_text, unadjusted
from grader.evidence.gathered import Evidence
from grader.findings import Finding, Level, Status, in_points, not_checked
from grader.statistics import proportions
from grader.submission.parts import VariantConfig

FEWEST_ROWS, MOST_ROWS = 3, 10  # every row is compared with every other


def smallest_sufficient(evidence: Evidence) -> Finding:
    """A smaller set of trained layers suffices: it is not inferior to the best row of the depth ladder.

    Rule: the ladder is the rows that start from the same pretrained weights, keep frozen statistics, have the
    same epochs, and train sets of layer groups each of which contains the one before; at least three. A row
    suffices if it is not inferior to any other row within the policy's margin: its p-value is the largest of
    those against each other row (an intersection-union test, so the best row need not be known), with Holm's
    correction over the ladder, one-sided at (1 − confidence) / 2. Holds if a row that trains less than the
    largest suffices, and names the smallest; otherwise inconclusive.

    Source: R. L. Berger, Technometrics 24 (1982) 295-300; G. Piaggio et al., JAMA 308 (2012) 2594-2604;
    Holm (1979); Lee et al., Surgical Fine-Tuning Improves Adaptation to Distribution Shifts (2023).
    """
    rows = [variant.name for variant in ladder(evidence)]
    if len(rows) < FEWEST_ROWS:
        return not_checked("No ladder of at least three nested rows (--preset depth).", Level.FILE)
    margin, alpha = evidence.thresholds.margin, (1 - evidence.thresholds.confidence) / 2
    p_values: list[float] = []
    details: list[str] = []
    level = Level.PREDICTIONS
    for row in rows:
        found = [unadjusted(evidence, row, other) for other in rows if other != row]
        compared = [comparison for comparison in found if comparison is not None]
        if len(compared) < len(rows) - 1:
            return not_checked("Not every row of the ladder completed a seed in common.", Level.FILE)
        p_values.append(max(comparison.p_below(-margin) for comparison in compared))
        level = min(level, *(comparison.level for comparison in compared))
        worst: Comparison = min(compared, key=lambda comparison: comparison.interval.low)
        gap = worst.interval
        details.append(
            f"against the best for it: {in_points(gap.estimate)} points "
            f"({in_points(gap.low)} to {in_points(gap.high)}), unadjusted"
        )
    adjusted = proportions.holm(p_values)
    lines = tuple(
        f"{row}: {text}; Holm-adjusted {p_text(p)}."
        for row, text, p in zip(rows, details, adjusted, strict=True)
    )
    sufficient = [row for row, p in zip(rows, adjusted, strict=True) if p < alpha]
    numbers = {f"{row}_adjusted_p": p for row, p in zip(rows, adjusted, strict=True)} | {"margin": margin}
    of, within = f"of {', '.join(rows)}", f"within {100 * margin:g} points of every other row"
    if sufficient and sufficient[0] != rows[-1]:
        summary = f"{sufficient[0]} suffices: {of}, it is the smallest that is shown to be {within}."
        return Finding(Status.HOLDS, level, summary, lines, numbers, len(sufficient), len(rows))
    known = f"only {rows[-1]}, which trains the most layers, is" if sufficient else "none is"
    summary = f"How many layers must be trained is open: {of}, {known} shown to be {within}."
    return Finding(Status.INCONCLUSIVE, level, summary, lines, numbers, len(sufficient), len(rows))


def ladder(evidence: Evidence) -> list[VariantConfig]:
    """The rows of the depth ladder by the size of the trained set; empty if they are not nested, or too many.

    A row whose head comes from another row trains more in all, so it comes after the same set without.
    """
    results = evidence.results
    rows = [
        variant
        for variant in results.variants
        if variant.init == "pretrained" and variant.norm == "frozen" and variant.epochs is None
    ]
    rows.sort(key=lambda row: (len(set(row.groups)), row.head is not None))
    nested = all(
        set(low.groups) < set(high.groups) or (set(low.groups) == set(high.groups) and high.head is not None)
        for low, high in pairwise(rows)
    )
    return rows if nested and len(rows) <= MOST_ROWS else []
