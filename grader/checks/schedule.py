"""Level 1: the learning rates follow from the recipe alone."""

from math import ceil, cos, pi, sin

from grader.evidence.gathered import Evidence
from grader.findings import Finding, Level, from_problems

TOLERANCE = 1e-12  # of the peak; sums of a million steps in another order differ by less


def rates_exact(evidence: Evidence) -> Finding:
    """Each epoch's mean learning rate is the one that the recipe prescribes.

    Rule: with s steps per epoch (training images / batch size, rounded up), a linear warm-up over w =
    min(warmup_epochs, epochs / 2) * s steps and half a cosine to zero over the rest, the mean rate over the
    steps of each epoch of a completed run equals the recorded one within 1e-12 of the peak rate. A variant
    with epochs of its own has them instead of the recipe's.

    Source: the training loop; I. Loshchilov and F. Hutter, SGDR (2017); P. Goyal et al., Accurate, large
    minibatch SGD (2017). Honest runs agree to 1e-14; a rate that was made up is off by a tenth and more.
    """
    results = evidence.results
    problems: dict[str, list[str]] = {}
    for run in results.completed:
        if not run.epochs:
            continue
        found, epochs = problems.setdefault(run.name, []), results.epochs_of(run.variant)
        for epoch in run.epochs:
            steps = ceil(epoch.train.n_samples / results.batch_size)
            share = mean_share(epoch.epoch, epochs, steps, results.recipe["warmup_epochs"])
            wanted = run.learning_rate * share
            if abs(epoch.learning_rate - wanted) > TOLERANCE * run.learning_rate:
                found.append(
                    f"{run.name}, epoch {epoch.epoch}: the mean learning rate is {epoch.learning_rate:.9g}, "
                    f"but the recipe gives {wanted:.9g}."
                )
    return from_problems(problems, Level.FILE, "The learning rates are those of the recipe in every epoch.")


def mean_share(epoch: int, epochs: int, steps_per_epoch: int, warmup_epochs: float) -> float:
    """Mean learning rate of an epoch as a share of the peak, in closed form: however many steps, no loop.

    The sum of cosines of an arithmetic progression is Lagrange's trigonometric identity.

    Args:
        epoch: Its number, from 1.
        epochs: How many the schedule has.
        steps_per_epoch: Optimizer steps in each.
        warmup_epochs: Epochs of linear warm-up; at most half of the schedule is warm-up.
    """
    warmup = min(warmup_epochs, epochs / 2) * steps_per_epoch
    first, end = (epoch - 1) * steps_per_epoch, epoch * steps_per_epoch
    turn = min(max(first, ceil(warmup)), end)  # the first step after the warm-up
    n_rising, n_falling = turn - first, end - turn
    rising = n_rising * (first + turn + 1) / 2 / (warmup + 1)
    step = pi / (epochs * steps_per_epoch - warmup)
    middle = (turn - warmup + (n_falling - 1) / 2) * step
    cosines = sin(n_falling * step / 2) / sin(step / 2) * cos(middle) if n_falling else 0.0
    return (rising + (n_falling + cosines) / 2) / steps_per_epoch
