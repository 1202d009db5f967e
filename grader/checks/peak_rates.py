"""Level 1: no variant is held back by a learning rate that nobody tuned for it."""

from grader.evidence.gathered import Evidence
from grader.findings import Finding, Level, Status, not_checked, rate_text

MOST_APART = 10.0


def comparable_rates(evidence: Evidence) -> Finding:
    """The variants' peak learning rates are the same, or recorded trials chose them.

    Rule: holds if all completed runs have the same peak learning rate, or if each variant's rate was chosen
    by recorded trials (which `fairly-tuned` judges). Otherwise somebody chose them by hand: inconclusive up
    to a factor of 10, beyond it the comparison says nothing about pretraining, and it fails.

    Source: J. Dodge et al., Show your work: improved reporting of experimental results (2019).
    """
    results = evidence.results
    runs = results.completed
    rates = {run.variant: run.learning_rate for run in runs}
    if len(rates) < 2:
        return not_checked("Fewer than two variants completed.", Level.FILE)
    shown = ", ".join(f"{name} {rate_text(rate)}" for name, rate in sorted(rates.items()))
    numbers = {f"{name}_learning_rate": rate for name, rate in rates.items()}
    tuned = {choice.variant for choice in results.tuning.choices} if results.tuning else set()
    apart = max(run.learning_rate for run in runs) / min(run.learning_rate for run in runs)
    if apart == 1 or rates.keys() <= tuned:
        how = "The same" if apart == 1 else "Tuned"
        return Finding(Status.HOLDS, Level.FILE, f"{how} peak learning rates: {shown}.", (), numbers, 1, 1)
    why = f"Peak learning rates chosen by hand, {apart:.3g} times apart: {shown}."
    if apart <= MOST_APART:
        return Finding(Status.INCONCLUSIVE, Level.FILE, f"{why} Tuning would settle it.", (), numbers, 0, 1)
    summary = f"{why} Use one rate, or tune each variant's."
    return Finding(Status.FAILS, Level.FILE, summary, (), numbers, 0, 1)
