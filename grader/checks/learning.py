"""How training progressed; for information in the bundled policies."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from math import log, sqrt
from statistics import fmean

from grader.checks.tuning import summary_of, targets_of
from grader.evidence.gathered import Evidence
from grader.findings import (
    MINUS,
    NO_RUNS,
    Finding,
    Level,
    Status,
    from_problems,
    in_words,
    not_checked,
    rate_text,
)
from grader.statistics import means, proportions
from grader.submission.record import Epoch, Results, Run
from grader.submission.trials import label

POINT = 0.01
FLAT = 0.2
"""A share of the peak learning rate below which a curve flattens whether or not training was long enough."""

MEMORY_STEPS = 100
"""Steps after which BatchNorm's moving averages (momentum 0.1) keep 0.9^100 < 0.003% of their start."""

GAP = 0.25
"""Training accuracy above validation accuracy, within MEMORY_STEPS, that more images cannot explain alone."""

HEALED = 0.20
SAME_TRAINING = 0.10


def a_learns(evidence: Evidence) -> Finding:
    """A's validation accuracy rises over the epochs.

    Rule: Spearman's rank correlation between epoch and validation accuracy (mean over seeds). With a
    two-sided p-value below 1 − confidence (exact for up to eight epochs, Student's t with n − 2 degrees of
    freedom for more), holds if positive and fails if negative; otherwise inconclusive.

    Source: C. Spearman, American Journal of Psychology 15 (1904) 72-101.
    """
    accuracy = validation_curve(evidence, "A")
    n = len(accuracy)
    if n < 3:
        return not_checked("A needs at least three epochs.", Level.FILE)
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

    Rule: fails if the validation accuracy of a variant in its last epoch (mean over seeds) is above that of
    every earlier epoch by more than a point and by more than chance, z sqrt(2 p (1 - p) / n): p is the best
    earlier accuracy, n the validation images of all seeds, z the normal quantile of the confidence; an epoch
    is compared with another one as if each had images of its own. A gain of more than a point that could be
    chance is inconclusive. If there is none, it holds if the learning rate was still above a fifth of its
    peak, and is inconclusive if it had fallen below: as the rate goes to zero every curve flattens, so that a
    plateau shows nothing; only a longer training does. One epoch alone is inconclusive. A plateau starts at
    the last epoch that rose more than a point above the previous such epoch.

    Source: the definition of the experiment; K. He, R. Girshick and P. Dollar, Rethinking ImageNet
    Pre-training (2019), on schedules that end too early for random weights.
    """
    endings = {
        name: _ending(evidence, name) for name in dict.fromkeys(run.variant for run in evidence.chosen)
    }
    found = {name: ending for name, ending in endings.items() if ending is not None}
    improving = {name: ending for name, ending in found.items() if ending.rises and not ending.by_chance}
    single = [name for name in endings if len(validation_curve(evidence, name)) == 1]
    if single and not improving:
        return _of_one_epoch(single)
    if not found:
        return not_checked(NO_RUNS, Level.FILE)
    unclear = {name: ending for name, ending in found.items() if ending.rises and ending.by_chance}
    share = max(run.epochs[-1].learning_rate / run.learning_rate for run in evidence.chosen if run.epochs)
    if improving:
        status, summary = Status.FAILS, f"{_rose(improving, 'still improved')}, so training was too short."
    elif unclear:
        status, summary = Status.INCONCLUSIVE, f"{_rose(unclear, 'improved')}, which could be chance. "
        summary += "A longer training would tell (--epochs)."
    elif share < FLAT:
        status = Status.INCONCLUSIVE
        summary = f"No variant improved in the last epoch, at {share:.0%} of the peak rate: there every "
        summary += "curve flattens. Only a longer training would tell (--epochs, --longer-scratch)."
    else:
        status, summary = Status.HOLDS, "Long enough: no variant was still improving in the last epoch."
    early = {name: ending for name, ending in found.items() if ending.plateau < ending.n_epochs}
    return Finding(
        status,
        Level.FILE,
        summary,
        tuple(f"{name}: plateau from epoch {e.plateau} of {e.n_epochs}." for name, e in early.items()),
        numbers={
            **{f"{name}_plateau_epoch": ending.plateau for name, ending in found.items()},
            **{f"{name}_last_gain": ending.gain for name, ending in found.items()},
        },
        held=len(found) - len(improving),
        judged=len(found),
    )


def _of_one_epoch(names: list[str]) -> Finding:
    """Variants of a single epoch, for which there is no earlier one to compare with."""
    who = in_words(names)
    why = f"{who} trained for one epoch, after which nobody can tell whether that was long enough (--epochs)."
    return Finding(Status.INCONCLUSIVE, Level.FILE, why, numbers={"n_epochs": 1}, judged=len(names))


@dataclass(frozen=True)
class _Ending:
    """How the validation accuracy of a variant ended, means over the seeds.

    Attributes:
        n_epochs: All its epochs.
        plateau: The epoch from which it rose no more.
        gain: Accuracy in the last epoch minus the highest before, -1 to 1.
        chance: By how much it rises by sampling alone, at the policy's confidence.
    """

    n_epochs: int
    plateau: int
    gain: float
    chance: float

    @property
    def rises(self) -> bool:
        """Whether the last epoch gained more than a point, beyond rounding."""
        return self.gain > POINT + 1e-9

    @property
    def by_chance(self) -> bool:
        """Whether sampling alone could have given the gain."""
        return self.gain <= self.chance


def _ending(evidence: Evidence, name: str) -> _Ending | None:
    """How a variant ended; None with a single epoch."""
    accuracy = validation_curve(evidence, name)
    if len(accuracy) < 2:
        return None
    before, n = max(accuracy[:-1]), sum(run.epochs[-1].val.n_samples for run in evidence.of(name))
    spread = sqrt(2 * before * max(0.0, 1 - before) / max(1, n))  # forged counts can exceed the images
    chance = proportions.normal_quantile(evidence.thresholds.confidence) * spread
    return _Ending(len(accuracy), plateau(accuracy), accuracy[-1] - before, chance)


def _rose(endings: Mapping[str, _Ending], verb: str) -> str:
    """Such as `A and B improved in the last epoch (by 3.1 and 2.0 points)`."""
    gains = [f"{100 * ending.gain:.1f}" for ending in endings.values()]
    return f"{in_words(list(endings))} {verb} in the last epoch (by {in_words(gains)} points)"


def statistics_settled(evidence: Evidence) -> Finding:
    """BatchNorm's statistics kept up with training, so that evaluation saw the network that was trained.

    Rule: with running statistics, a run lags if in an epoch within its first 100 steps its training accuracy
    is at least 25 points above its validation accuracy, validation is no better than the most frequent class
    (Wilson interval) with a mean loss above that of guessing, ln K, and either the loss is above 2 ln K, or
    validation later rises by 20 points and more than twice as much as training. A network that merely
    overfits does not recover. Fails if a run lags and its best epoch still has training accuracy 10 points
    above validation, beyond sampling; its accuracy then says little about its weights. Training accuracy is
    measured in training mode, with the statistics of each batch.

    Source: S. Ioffe and C. Szegedy, Batch Normalization (2015); Y. Wu and J. Johnson, Rethinking "Batch" in
    BatchNorm (2021), on statistics for evaluation (PreciseBN).
    """
    results = evidence.results
    if results.statistics != "running":
        summary = "Statistics of trained layers were recomputed on training images before each evaluation."
        return Finding(Status.HOLDS, Level.FILE, summary, held=1, judged=1)
    problems: dict[str, list[str]] = {}
    for run in evidence.chosen:
        found = _lag(results, run)
        best = run.best
        problems[run.name] = []
        if found is None or best is None:
            continue
        sides = ((m.n_correct, m.n_samples) for m in (best.train, best.val))
        train, val = (proportions.wilson(x, n, evidence.thresholds.confidence) for x, n in sides)
        if proportions.difference_of_independent(train, val).low > SAME_TRAINING:
            problems[run.name] = [
                f"{run.name}: in epoch {found.epoch} it had {found.train.accuracy:.1%} in training, but "
                f"{found.val.accuracy:.1%} on validation: BatchNorm's running statistics lagged behind the "
                f"weights, and in the best epoch still did ({best.train.accuracy:.1%}, "
                f"{best.val.accuracy:.1%})."
            ]
    summary = "No sign that BatchNorm's statistics lagged behind the weights."
    return from_problems(problems, Level.FILE, summary)


def _lag(results: Results, run: Run) -> Epoch | None:
    """An epoch in which evaluation cannot have seen the network that was trained; None if there is none."""
    chance, guessing = results.splits_of(run.seed)["val"].chance, log(len(results.classes))
    steps = max(1, run.budget.steps // max(1, len(run.epochs)))
    for epoch in run.epochs:
        if epoch.epoch * steps > MEMORY_STEPS:
            break
        loss = epoch.val.loss
        at_chance = proportions.wilson(epoch.val.n_correct, epoch.val.n_samples).low <= chance
        if epoch.train.accuracy - epoch.val.accuracy < GAP or not at_chance or loss <= guessing:
            continue
        best = max(run.epochs[epoch.epoch - 1 :], key=lambda later: later.val.n_correct)
        gained = best.val.accuracy - epoch.val.accuracy
        if loss > 2 * guessing or (
            gained >= HEALED and gained > 2 * (best.train.accuracy - epoch.train.accuracy)
        ):
            return epoch
    return None


def one_rate(evidence: Evidence) -> Finding:
    """The order of the variants does not rest on one learning rate that was not tuned for each of them.

    Rule: holds if the results record the trials that chose each variant's rate; fails if the variants ran at
    one peak rate, or at rates that no trials chose. The best rate depends on the variant, so the
    order of variants at one rate may be that rate's doing.

    Source: Godbole et al., Deep Learning Tuning Playbook (2023): optimizer hyperparameters "must be tuned
    separately to make fair comparisons"; Choi et al., On Empirical Comparisons of Optimizers (2019).
    """
    results = evidence.results
    rates: dict[float, list[str]] = defaultdict(list)
    for run in results.runs:
        if run.variant not in rates[run.learning_rate]:
            rates[run.learning_rate].append(run.variant)
    if results.tuning is not None:
        chosen = {choice.target for choice in results.tuning.choices}
        missing = [label(target) for target in targets_of(results) if target not in chosen]
        if not missing:
            return Finding(Status.HOLDS, Level.FILE, summary_of(results.tuning), held=1, judged=1)
        summary = f"No rate could be chosen for {' and '.join(missing)}: every trial failed."
        return Finding(Status.FAILS, Level.FILE, summary, judged=1)
    if len(rates) == 1:
        rate = rate_text(next(iter(rates)))
        summary = f"Every variant ran at the peak rate {rate}, which was not tuned per variant."
    else:
        found = ", ".join(
            f"{' and '.join(names)} at {rate_text(rate)}" for rate, names in sorted(rates.items())
        )
        summary = f"The peak rates differ ({found}), and no trials chose them."
    summary += " At other rates the order may differ: finetune train --tune."
    return Finding(Status.FAILS, Level.FILE, summary, judged=1)


def at_chance(evidence: Evidence) -> list[str]:
    """Variants none of whose runs became better on validation than the most frequent class."""
    runs = {name: evidence.of(name) for name in dict.fromkeys(run.variant for run in evidence.chosen)}
    return [name for name, of in runs.items() if of and not any(_has_learned(evidence, run) for run in of)]


def _has_learned(evidence: Evidence, run: Run) -> bool:
    if run.best is None:
        return False
    best, chance = run.best.val, evidence.results.splits_of(run.seed)["val"].chance
    return proportions.wilson(best.n_correct, best.n_samples, evidence.thresholds.confidence).low > chance


def validation_curve(evidence: Evidence, variant: str) -> list[float]:
    """Validation accuracy of each epoch, mean over seeds."""
    runs = evidence.of(variant)
    n = min((len(run.epochs) for run in runs), default=0)
    return [fmean(run.epochs[i].val.accuracy for run in runs) for i in range(n)]


def plateau(accuracy: list[float]) -> int:
    """The last epoch, starting at 1, whose accuracy exceeds the reference by more than a point.

    The reference is the accuracy at the previous such epoch, so small gains count once they add up.
    """
    last, reference = 1, accuracy[0]
    for epoch, value in enumerate(accuracy[1:], 2):
        if value > reference + POINT:
            last, reference = epoch, value
    return last
