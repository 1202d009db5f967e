"""For information: how the training went."""

from statistics import fmean

from grader import samples
from grader.evidence import Evidence
from grader.findings import Finding, Level, Status, not_checked

POINT = 0.01


def a_learns(evidence: Evidence) -> Finding:
    """A's validation accuracy rises over the epochs.

    Rule: Spearman's rank correlation of epoch and validation accuracy (mean over seeds): holds when
    positive, fails when negative, with p below 1 - confidence (two-sided; exact up to eight epochs, then
    Student's t with n - 2 degrees of freedom); else not separable.

    Source: C. Spearman, American Journal of Psychology 15 (1904) 72-101.
    """
    runs = evidence.of("A")
    n = min((len(run.epochs) for run in runs), default=0)
    if n < 3:
        return not_checked("A needs three epochs or more.", Level.FILE)
    accuracy = [fmean(run.epochs[i].val.accuracy for run in runs) for i in range(n)]
    rho, p = samples.spearman(list(range(n)), accuracy)
    status = Status.NOT_SEPARABLE
    if p < 1 - evidence.thresholds.confidence:
        status = Status.HOLDS if rho > 0 else Status.FAILS
    summary = (
        f"A goes from {accuracy[0]:.1%} to {accuracy[-1]:.1%} in {n} epochs, rho = {rho:+.2f}, p = {p:.2g}."
    )
    if status is Status.NOT_SEPARABLE:
        summary += " More epochs would separate a rise from chance."
    return Finding(
        status, Level.FILE, summary, numbers={"rho": rho, "p": p, "n_epochs": n},
        held=int(status is Status.HOLDS), judged=1,
    )  # fmt: skip


def long_enough(evidence: Evidence) -> Finding:
    """Training was long enough: no variant was still improving at the end.

    Rule: the epoch after which a variant's validation accuracy (mean over seeds) never again exceeds its
    best so far by more than a point; holds when for every variant that epoch comes before the last.

    Source: the definition of the experiment.
    """
    plateaus: dict[str, tuple[int, int]] = {}
    for name in dict.fromkeys(run.variant for run in evidence.chosen):
        runs = evidence.of(name)
        n = min((len(run.epochs) for run in runs), default=0)
        if n >= 2:
            accuracy = [fmean(run.epochs[i].val.accuracy for run in runs) for i in range(n)]
            plateaus[name] = (plateau(accuracy), n)
    if not plateaus:
        return not_checked("Two epochs or more are needed.", Level.FILE)
    held = sum(last < n for last, n in plateaus.values())
    parts = [f"{name} after epoch {last} of {n}" for name, (last, n) in plateaus.items()]
    return Finding(
        Status.HOLDS if held == len(plateaus) else Status.FAILS,
        Level.FILE,
        f"No gain of more than a point: {', '.join(parts)}.",
        numbers={f"{name}_plateau_epoch": last for name, (last, _) in plateaus.items()},
        held=held,
        judged=len(plateaus),
    )


def plateau(accuracy: list[float]) -> int:
    """The last epoch, from 1, at which the reference was beaten by more than a point.

    The reference is the accuracy at the last such epoch, so that many small gains count once they add up.
    """
    last, reference = 1, accuracy[0]
    for epoch, value in enumerate(accuracy[1:], 2):
        if value > reference + POINT:
            last, reference = epoch, value
    return last
