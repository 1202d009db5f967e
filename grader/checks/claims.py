"""The questions of the experiment: does pretraining pay, does freezing layers cost accuracy?"""

from math import ceil, floor, log10

from grader.checks.compare import FEW_SEEDS, Comparison, compare, longer_scratch, p_text
from grader.evidence.gathered import Evidence
from grader.findings import MINUS, Finding, Level, Status, limits_in_points, not_checked

NO_COMMON_SEED = "No seed was completed by both {} and {}."


def b_beats_a(evidence: Evidence) -> Finding:
    """Pretraining pays: B beats A on the test images.

    Rule: holds if the difference in test accuracy, B − A, is positive with a Holm-adjusted p-value below 1 −
    confidence; fails if it is negative with such a p-value; otherwise inconclusive. The interval has the
    confidence of Holm's step, so that it excludes 0 exactly if the adjusted p-value is that small. One seed:
    McNemar's score test and Tango's interval, which inverts it; about these two networks. Two seeds: each
    must be conclusive by itself, and the interval spans both. Three or more: mean difference with Student's t
    and the variance of a bootstrap over seeds and images, in closed form. Seeds with a split each: Student's
    t with a variance for overlapping training sets. Without predictions: the p-value at which Newcombe's
    interval for two independent proportions meets 0, which is conservative for paired data.

    Source: McNemar (1947); Tango, Statistics in Medicine 17 (1998) 891-908; Newcombe, ibid. 873-890; Searle,
    Casella and McCulloch, Variance Components (1992), chapter 4; Nadeau and Bengio, Machine Learning 52
    (2003) 239-281; Holm (1979).
    """
    return _beats(evidence, "B", "A")


def c_beats_a(evidence: Evidence) -> Finding:
    """Pretraining pays with most layers frozen: C beats A on the test images.

    Rule: as for b-beats-a, with C − A.

    Source: McNemar (1947); Tango, Statistics in Medicine 17 (1998) 891-908; Holm (1979).
    """
    return _beats(evidence, "C", "A")


def b_beats_longer_a(evidence: Evidence) -> Finding:
    """Pretraining pays even when training from random weights gets more epochs.

    Rule: as for b-beats-a, against the row that trains every layer from random weights for more epochs than
    the recipe's (`--longer-scratch`); not checked without such a row.

    Source: K. He, R. Girshick and P. Dollar, Rethinking ImageNet Pre-training (2019); Holm (1979).
    """
    longer = longer_scratch(evidence)
    if longer is None:
        return not_checked("No row trains from random weights for longer (--longer-scratch).", Level.FILE)
    return _beats(evidence, "B", longer)


def c_against_b(evidence: Evidence) -> Finding:
    """Training only layer4 and fc costs no more accuracy than the margin: C is not inferior to B.

    Rule: let (low, high) be the interval of the difference in test accuracy, C − B, and m the policy's
    margin. C is superior if low > 0 and non-inferior if low > −m (holds); inferior if high < −m (fails);
    otherwise inconclusive.

    Source: G. Piaggio et al., Reporting of noninferiority and equivalence randomized trials, JAMA 308
    (2012) 2594-2604; interval as for b-beats-a.
    """
    found = compare(evidence, "C", "B")
    if found is None:
        return not_checked(NO_COMMON_SEED.format("B", "C"), Level.FILE)
    margin = evidence.thresholds.margin
    gap = found.interval
    if gap.low > -margin:
        status, word = Status.HOLDS, "superior" if gap.low > 0 else "non-inferior"
    elif gap.high < -margin:
        status, word = Status.FAILS, "inferior"
    else:
        status, word = Status.INCONCLUSIVE, "inconclusive"
    summary = f"C {MINUS} B = {limits_in_points(gap)}: {word} at a margin of {100 * margin:g} points."
    if status is Status.INCONCLUSIVE:
        summary += _images_needed(evidence, found, gap.estimate + margin)
    numbers = {name: n for name, n in found.numbers.items() if not name.startswith("corrected_")}
    return Finding(
        status, found.level, summary, found.details,
        numbers | {"margin": margin}, int(status is Status.HOLDS), 1,
    )  # fmt: skip


def c_trains_fewer(evidence: Evidence) -> Finding:
    """C trains fewer parameters than B.

    Rule: for every seed, the listed parameters of C have fewer elements than those of B.

    Source: the definition of the experiment.
    """
    pairs = evidence.pairs("C", "B")
    if not pairs:
        return not_checked(NO_COMMON_SEED.format("B", "C"), Level.FILE)
    counts = [tuple(sum(p.count for p in run.trainable_parameters) for run in pair) for pair in pairs]
    held = sum(c < b for c, b in counts)
    c, b = next((pair for pair in counts if pair[0] >= pair[1]), counts[0])
    return Finding(
        Status.HOLDS if held == len(counts) else Status.FAILS,
        Level.FILE,
        f"C trains {c:,} parameters, {c / b:.1%} of B's {b:,}.",
        numbers={"c_parameters": c, "b_parameters": b, "ratio": c / b},
        held=held,
        judged=len(counts),
    )


def _beats(evidence: Evidence, first: str, second: str) -> Finding:
    found = compare(evidence, first, second)
    if found is None:
        return not_checked(NO_COMMON_SEED.format(first, second), Level.FILE)
    gap, alpha = found.interval, 1 - evidence.thresholds.confidence
    status = Status.INCONCLUSIVE
    if found.adjusted_p < alpha and gap.estimate != 0:
        status = Status.HOLDS if gap.estimate > 0 else Status.FAILS
    percent = f"{100 * evidence.thresholds.confidence:.3g}%"
    corrected = found.corrected or gap
    summary = f"{first} {MINUS} {second} = {limits_in_points(corrected)}, {found.test} {p_text(found.p)}"
    if found.n_tests > 1:
        summary += f"; {percent} interval and adjusted {p_text(found.adjusted_p)} with Holm's correction"
    summary += "."
    if status is Status.INCONCLUSIVE:
        summary += _images_needed(evidence, found, gap.estimate)
    return Finding(
        status, found.level, summary, found.details, found.numbers, int(status is Status.HOLDS), 1
    )  # fmt: skip


def _images_needed(evidence: Evidence, found: Comparison, distance: float) -> str:
    """What would settle a comparison; a number of images is no more than an order of magnitude."""
    n_seeds = found.numbers.get("n_seeds", 1)
    if n_seeds > 1 and (evidence.results.resplit or (n_seeds == FEW_SEEDS and found.p == 1.0)):
        return " More seeds (--seeds) would tell more."  # few, or two that disagree: no image helps
    alpha = 1 - evidence.thresholds.confidence
    wanted = found.images_needed(distance, 1 - alpha / found.n_tests)
    if wanted > 1e7:
        return " No realistic number of test images would settle it."
    is_all = evidence.results.split_rule == "official" and evidence.results.subset is None
    if ceil(wanted) <= found.n_images and not is_all:
        return f" More seeds, or more than {found.n_images:,} test images, would tell more."
    if is_all:
        return " More seeds would tell more about the recipe; these test images do not settle it."
    digits = 10 ** floor(log10(wanted))
    rounded = ceil(wanted / digits) * digits
    return f" On the order of {rounded:,} test images would settle it; there are {found.n_images:,}."
