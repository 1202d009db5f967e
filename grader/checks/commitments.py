"""Level 1: the chain of hashes that commits a run to its epochs."""

from collections.abc import Iterator

from grader.evidence.gathered import Evidence
from grader.findings import Finding, Level, counted, from_problems, not_checked
from grader.submission import commitments
from grader.submission.record import SPLITS, Run


def commitments_chain(evidence: Evidence) -> Finding:
    """Each epoch's commitment follows from its figures and from the epochs before it.

    Rule: every commitment is the SHA-256 of the previous one, the epoch's sums and counts, and the hashes of
    its weights and predictions; the first follows from seed, start, learning rate and recipe, with the
    variant's own epochs. The hash of the best epoch's predictions is that of the prediction files. The
    training states kept are those that the commitments draw. Shows that the file is consistent with itself,
    not that it is true.

    Source: the results schema; `grader/submission/commitments.py`.
    """
    results = evidence.results
    runs = [run for run in results.runs if run.epochs]
    if not runs:
        return not_checked("No run completed an epoch, so there is nothing to commit to.", Level.FILE)
    if not any(epoch.commitment for run in runs for epoch in run.epochs):
        return not_checked("Version 1 of the results file has no commitments.", Level.FILE)
    problems = {run.name: list(_chain_problems(evidence, run)) for run in runs}
    level = Level.PREDICTIONS if evidence.predictions else Level.FILE
    n_epochs = sum(len(run.epochs) for run in runs)
    return from_problems(problems, level, f"The commitments to all {counted(n_epochs, 'epoch')} follow.")


def _chain_problems(evidence: Evidence, run: Run) -> Iterator[str]:
    start = {
        "variant": run.variant, "seed": run.seed, "initial_sha256": run.initial_sha256,
        "trained_groups": list(run.trained_groups), "learning_rate": run.learning_rate,
    }  # fmt: skip
    n_epochs = evidence.results.epochs_of(run.variant)
    before = commitments.of_start(start, {**evidence.results.recipe, "epochs": n_epochs})
    chain = []
    for epoch in run.epochs:
        weights, predictions = epoch.weights_sha256 or "", epoch.predictions_sha256 or ""
        if epoch.commitment != commitments.of_epoch(before, epoch, weights, predictions):
            yield f"{run.name}, epoch {epoch.epoch}: the commitment does not follow from the epoch's figures."
        before = epoch.commitment or ""
        chain.append(before)
    found = [evidence.predictions.get((run.name, split)) for split in SPLITS]
    if run.best is not None and None not in found:
        columns = [(rows.predicted, rows.nll, rows.confidence) for rows in found if rows is not None]
        if commitments.of_predictions(columns) != run.best.predictions_sha256:
            yield f"{run.name}: the prediction files are not those that epoch {run.best_epoch} committed to."
    kept = [state.epoch for state in run.states]
    drawn = commitments.drawn_epochs(evidence.results.keep_states, n_epochs, chain)
    if kept != drawn:
        yield f"{run.name}: the commitments draw the states after epochs {drawn}, but {kept} were kept."
