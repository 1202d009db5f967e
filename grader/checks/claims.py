"""What the experiment is about: does pretraining pay, does training less cost accuracy, is it faster?"""

from math import ceil, isfinite

from grader import samples
from grader.checks.compare import Comparison, compare, p_text
from grader.evidence import Evidence
from grader.findings import Finding, Level, Status, not_checked
from grader.stats import Interval


def b_beats_a(evidence: Evidence) -> Finding:
    """Pretraining pays: B beats A on the test images.

    Rule: holds when the difference of test accuracy B - A is positive with a Holm-adjusted p below
    1 - confidence; fails when it is negative with such a p; else not separable. One seed: exact McNemar
    test, Tango's interval. Two seeds: each by itself must tell, and the interval spans both. Three and
    more: mean difference with the variance of a bootstrap over seeds and images, in closed form, and
    Student's t. Without predictions: two independent proportions, which is cautious for paired data.

    Source: McNemar (1947); Tango, Statistics in Medicine 17 (1998) 891-908; Searle, Casella and
    McCulloch, Variance Components (1992), chapter 4; Holm (1979).
    """
    return _beats(evidence, "B", "A")


def c_beats_a(evidence: Evidence) -> Finding:
    """Pretraining pays with most layers frozen: C beats A on the test images.

    Rule: as for b-beats-a, with C - A.

    Source: McNemar (1947); Tango, Statistics in Medicine 17 (1998) 891-908; Holm (1979).
    """
    return _beats(evidence, "C", "A")


def c_against_b(evidence: Evidence) -> Finding:
    """Training only the last two parts costs no more accuracy than the margin: C is not inferior to B.

    Rule: with the interval of the difference of test accuracy C - B and the policy's margin m: superior
    when low > 0 and non-inferior when low > -m (holds); inferior when high < -m (fails); else undecided
    (not separable).

    Source: G. Piaggio et al., Reporting of noninferiority and equivalence randomized trials, JAMA 308
    (2012) 2594-2604; interval as for b-beats-a.
    """
    found = compare(evidence, "C", "B")
    if found is None:
        return not_checked("There is no seed that both B and C completed.", Level.FILE)
    margin = evidence.thresholds.margin
    gap = found.interval
    if gap.low > -margin:
        status, word = Status.HOLDS, "superior" if gap.low > 0 else "non-inferior"
    elif gap.high < -margin:
        status, word = Status.FAILS, "inferior"
    else:
        status, word = Status.NOT_SEPARABLE, "undecided"
    summary = f"C - B = {_points(gap)}: {word} within a margin of {100 * margin:g} points."
    if status is Status.NOT_SEPARABLE:
        summary += _what_would_separate(found, gap.estimate + margin)
    return Finding(
        status, found.level, summary, found.details,
        dict(found.numbers) | {"margin": margin}, int(status is Status.HOLDS), 1,
    )  # fmt: skip


def c_trains_fewer(evidence: Evidence) -> Finding:
    """C trains fewer parameters than B.

    Rule: the sum over the listed shapes is smaller for C than for B, with every seed.

    Source: the definition of the experiment.
    """
    pairs = evidence.pairs("C", "B")
    if not pairs:
        return not_checked("There is no seed that both B and C completed.", Level.FILE)
    counts = [tuple(sum(p.count for p in run.trainable_parameters) for run in pair) for pair in pairs]
    held = sum(c < b for c, b in counts)
    c, b = next((pair for pair in counts if pair[0] >= pair[1]), counts[0])
    return Finding(
        Status.HOLDS if held == len(counts) else Status.FAILS,
        Level.FILE,
        f"C trains {c:,} parameters, B {b:,}: {c / b:.2f} of them.",
        numbers={"c_parameters": c, "b_parameters": b, "ratio": c / b},
        held=held,
        judged=len(counts),
    )


def c_faster(evidence: Evidence) -> Finding:
    """C trains faster than B.

    Rule: the ratio of mean training seconds an epoch, C over B, geometric means over epochs and seeds, the
    first epoch of each run apart (it pays for warming up), with Welch's interval on the logarithms. Holds
    when the interval lies below 1, fails when it lies above, else not separable.

    Source: B. L. Welch, Biometrika 34 (1947) 28-35.
    """
    pairs = evidence.pairs("C", "B")
    c, b = ([e for pair in pairs for e in pair[i].epochs[1:] if e.train_seconds > 0] for i in (0, 1))
    if not c or not b:
        return not_checked("B and C need two epochs or more, with times.", Level.FILE)
    confidence = evidence.thresholds.confidence
    ratio = samples.ratio_of_means([e.train_seconds for e in c], [e.train_seconds for e in b], confidence)
    waits = [sum(e.data_wait_seconds for e in runs) / sum(e.train_seconds for e in runs) for runs in (c, b)]
    status = Status.HOLDS if ratio.high < 1 else Status.FAILS if ratio.low > 1 else Status.NOT_SEPARABLE
    limits = f" ({ratio.low:.2f} to {ratio.high:.2f})" if isfinite(ratio.high) else ""
    summary = f"An epoch of C takes {ratio.estimate:.2f} of B's time{limits}; "
    summary += f"waiting for data: C {waits[0]:.0%}, B {waits[1]:.0%} of it."
    if status is Status.NOT_SEPARABLE:
        summary += " More epochs, or a quieter machine, would separate them."
    numbers = {
        "ratio": ratio.estimate, "low": ratio.low, "high": ratio.high,
        "c_wait_share": waits[0], "b_wait_share": waits[1],
    }  # fmt: skip
    finite = {name: value for name, value in numbers.items() if isfinite(value)}
    return Finding(status, Level.FILE, summary, (), finite, int(status is Status.HOLDS), 1)


def _beats(evidence: Evidence, first: str, second: str) -> Finding:
    found = compare(evidence, first, second)
    if found is None:
        return not_checked(f"There is no seed that both {first} and {second} completed.", Level.FILE)
    gap, alpha = found.interval, 1 - evidence.thresholds.confidence
    status = Status.NOT_SEPARABLE
    if found.adjusted_p < alpha and gap.estimate != 0:
        status = Status.HOLDS if gap.estimate > 0 else Status.FAILS
    summary = f"{first} - {second} = {_points(gap)}, {found.test} {p_text(found.adjusted_p)}."
    if status is Status.NOT_SEPARABLE:
        summary += _what_would_separate(found, gap.estimate)
    return Finding(
        status, found.level, summary, found.details, found.numbers, int(status is Status.HOLDS), 1
    )  # fmt: skip


def _what_would_separate(found: Comparison, distance: float) -> str:
    wanted = found.images_wanted(distance)
    if wanted > 1e7:
        return " No number of test images within reach would separate them."
    if ceil(wanted) <= found.n_images:
        return " More seeds would separate them, rather than more images."
    return f" About {ceil(wanted):,} test images would separate them; there are {found.n_images:,}."


def _points(gap: Interval) -> str:
    return f"{100 * gap.estimate:+.1f} points ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"
