"""When two honest runs may be one network, for a while or altogether."""

from grader.submission.record import Results, Run

LEAST_RATE = 1e-5
"""Below this peak, a step may be smaller than the rounding of float32 weights: two rates give one result."""


def hardly_moved(a: Run, b: Run) -> bool:
    """Whether both runs end about where both began, however different the layers that they train."""
    return a.initial_sha256 == b.initial_sha256 and max(a.learning_rate, b.learning_rate) < LEAST_RATE


def epochs_in_common(results: Results, a: Run, b: Run) -> int:
    """How many epochs two runs have in common: those whose steps all had the same learning rates.

    Runs that differ in their number of epochs alone are one network until the warm-up ends; after it their
    rates fall differently.
    """
    alike = ("seed", "initial_sha256", "trained_groups", "learning_rate")
    if any(getattr(a, name) != getattr(b, name) for name in alike) or a.budget.epochs == b.budget.epochs:
        return 0
    # As training does it: if the warm-up would take more than half of the epochs, it takes half.
    first, second = (min(results.recipe["warmup_epochs"], run.budget.epochs / 2) for run in (a, b))
    return int(first) if first == second else 0


def have_one_best(results: Results, a: Run, b: Run) -> bool:
    """Whether the best epoch of both is one that they have in common, so that they end as one network."""
    best = a.best_epoch
    return best is not None and best == b.best_epoch and best <= epochs_in_common(results, a, b)
