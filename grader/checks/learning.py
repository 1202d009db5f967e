"""How training progressed; for information in the bundled policies."""

from statistics import fmean

from grader import means
from grader.evidence import Evidence
from grader.findings import MINUS, Finding, Level, Status, not_checked

POINT = 0.01


def a_learns(evidence: Evidence) -> Finding:
    """A's validation accuracy rises over the epochs.

    Rule: Spearman's rank correlation between epoch and validation accuracy (mean over seeds). With a
    two-sided p-value below 1 − confidence (exact for up to eight epochs, Student's t with n − 2 degrees of
    freedom for more), holds if positive and fails if negative; otherwise inconclusive.

    Source: C. Spearman, American Journal of Psychology 15 (1904) 72-101.
    """
    runs = evidence.of("A")
    n = min((len(run.epochs) for run in runs), default=0)
    if n < 3:
        return not_checked("A needs at least three epochs.", Level.FILE)
    accuracy = [fmean(run.epochs[i].val.accuracy for run in runs) for i in range(n)]
    rho, p = means.spearman(list(range(n)), accuracy)
    status = Status.INCONCLUSIVE
    if p < 1 - evidence.thresholds.confidence:
        status = Status.HOLDS if rho > 0 else Status.FAILS
    change = f"from {accuracy[0]:.1%} in epoch 1 to {accuracy[-1]:.1%} in epoch {n}"
    rank_correlation = f"{rho:+.2f}".replace("-", MINUS)
    summary = f"A's validation accuracy went {change}, rho = {rank_correlation}, p = {p:.2g}."
    if status is Status.INCONCLUSIVE:
        summary += " More epochs would settle it."
    return Finding(
        status, Level.FILE, summary, numbers={"rho": rho, "p": p, "n_epochs": n},
        held=int(status is Status.HOLDS), judged=1,
    )  # fmt: skip


def long_enough(evidence: Evidence) -> Finding:
    """Training was long enough: no variant was still improving at the end.

    Rule: a variant's plateau starts at the last epoch in which its validation accuracy (mean over seeds) rose
    more than one point above the accuracy at the previous such epoch. Holds if every variant reaches its
    plateau before the last epoch.

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
        return not_checked("At least two epochs are needed.", Level.FILE)
    improving = [name for name, (last, n) in plateaus.items() if last == n]
    summary = "Long enough: no variant was still improving in the last epoch."
    if improving:
        names = " and ".join(filter(None, (", ".join(improving[:-1]), improving[-1])))
        verb = "was" if len(improving) == 1 else "were"
        summary = f"Too short: {names} {verb} still improving in the last epoch."
    return Finding(
        Status.FAILS if improving else Status.HOLDS,
        Level.FILE,
        summary,
        tuple(
            f"{name}: plateau from epoch {last} of {n}." for name, (last, n) in plateaus.items() if last < n
        ),
        numbers={f"{name}_plateau_epoch": last for name, (last, _) in plateaus.items()},
        held=len(plateaus) - len(improving),
        judged=len(plateaus),
    )


def plateau(accuracy: list[float]) -> int:
    """The last epoch, starting at 1, whose accuracy exceeds the reference by more than a point.

    The reference is the accuracy at the previous such epoch, so small gains count once they add up.
    """
    last, reference = 1, accuracy[0]
    for epoch, value in enumerate(accuracy[1:], 2):
        if value > reference + POINT:
            last, reference = epoch, value
    return last
