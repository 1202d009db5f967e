"""Level 1: each trial committed to its epochs as it trained, and no two trials are one training."""

from collections.abc import Iterator
from types import SimpleNamespace

from grader.checks.one_network import LEAST_RATE
from grader.evidence.gathered import Evidence
from grader.findings import Finding, Level, counted, from_problems, not_checked
from grader.submission import commitments
from grader.submission.record import Results
from grader.submission.trials import Trial


def trials_committed(evidence: Evidence) -> Finding:
    """Each trial committed to its epochs, and no two trials are one training.

    Rule: a trial has a commitment for each of its evaluations: the chain of `commitments-chain`, over
    training and validation, whose first link follows from variant, tuning seed, start, rate and recipe with
    the trial's epochs. Training counts all images of its split, and its loss_sum is at least
    (n_samples − n_correct) * ln 2. At rates of at least 0.00001, weights have other hashes after each epoch;
    those of a trial are not those of a trial at another rate, on another split or with another start or
    other trained layers, and not those of a final run, which has another seed. Shows that the file is
    consistent with itself; --replay trains a trial of each variant again.

    Source: the results schema; `grader/submission/commitments.py`.
    """
    results = evidence.results
    if results.tuning is None:
        return not_checked("The learning rates were not tuned (finetune train --tune).", Level.FILE)
    trials = results.tuning.trials
    problems = {
        f"{number}: {trial.name}": list(_problems(results, trial)) for number, trial in enumerate(trials)
    }
    problems["weights"] = list(_shared_weights(results, trials))
    n_epochs = sum(len(trial.commitments) for trial in trials)
    summary = f"The commitments of {counted(len(trials), 'trial')} to {counted(n_epochs, 'epoch')} follow."
    return from_problems(problems, Level.FILE, summary)


def _problems(results: Results, trial: Trial) -> Iterator[str]:
    """What is wrong with the commitments of one trial."""
    variant, n_images = results.variant(trial.variant), results.splits_of(trial.for_seed)["train"].n_samples
    if variant is None or len(trial.commitments) != len(trial.validation):
        found = f"{counted(len(trial.validation), 'evaluation')} and {len(trial.commitments)} commitments"
        yield f"{trial.name}: {found}." if variant else f"{trial.name}: of no configured variant."
        return
    start = {
        "variant": trial.variant,
        "seed": trial.seed,
        "initial_sha256": trial.initial_sha256,
        "trained_groups": list(variant.groups),
        "learning_rate": trial.learning_rate,
    }
    before = commitments.of_start(start, {**results.recipe, "epochs": trial.epochs})
    hashes = {trial.initial_sha256}
    for number, (own, val) in enumerate(zip(trial.commitments, trial.validation, strict=True), 1):
        where, train = f"{trial.name}, epoch {number}", own.train
        figures = SimpleNamespace(epoch=number, train=train, val=val, test=None)
        if own.commitment != commitments.of_epoch(
            before, figures, own.weights_sha256, own.predictions_sha256
        ):
            yield f"{where}: the commitment does not follow from the epoch's figures."
        before = own.commitment
        if train.n_samples != n_images or train.n_correct > n_images:
            found = f"{train.n_correct:,} of {counted(train.n_samples, 'training image')} correct"
            yield f"{where}: {found}, but the split has {n_images:,}."
        elif train.lacks_loss:
            least = f"at least {train.least_loss_sum:.4g}"
            yield f"{where}: training loss_sum {train.loss_sum:.4g}, but {least}."
        if own.weights_sha256 in hashes and trial.learning_rate >= LEAST_RATE:
            yield f"{where}: the weights are those of an earlier epoch."
        hashes.add(own.weights_sha256)


def _network(results: Results, trial: Trial) -> tuple[object, ...]:
    """What is the same where two trials of different lengths are one training until their warm-ups end."""
    variant = results.variant(trial.variant)
    own = (variant.init, variant.train, variant.norm, variant.head) if variant else (trial.variant,)
    return (*own, trial.for_seed, trial.learning_rate)


def _shared_weights(results: Results, trials: tuple[Trial, ...]) -> Iterator[str]:
    """Weights of a trial that are also those of another training."""
    owners: dict[str, Trial] = {}
    finals = {epoch.weights_sha256: run.name for run in results.runs for epoch in run.epochs}
    for trial in trials:
        for number, own in enumerate(trial.commitments, 1):
            other = owners.setdefault(own.weights_sha256, trial)
            differ = _network(results, other) != _network(results, trial)
            if differ and max(other.learning_rate, trial.learning_rate) >= LEAST_RATE:
                yield f"{trial.name}, epoch {number}: the weights are those of {other.name}."
            if own.weights_sha256 in finals and trial.learning_rate >= LEAST_RATE:
                yield f"{trial.name}, epoch {number}: the weights are those of {finals[own.weights_sha256]}."
