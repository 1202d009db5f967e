"""Level 5: training again gives what was recorded; and level 1: the chain of commitments."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from grader import commitments
from grader.evidence import Evidence
from grader.findings import Finding, Level, counted, from_problems, not_checked
from grader.record import SPLITS, Epoch, Run
from grader.replay import Passage

LOSS_TOLERANCES = {"fp32": 0.02, "bf16": 0.02}
"""Relative difference of the training loss of a replayed epoch, by the coarser of the two precisions."""

TIES = 4
"""Differences in the number of correct predictions that rounding makes, in standard deviations."""


def commitments_chain(evidence: Evidence) -> Finding:
    """Each epoch's commitment follows from its figures and from the epochs before it.

    Rule: every commitment is the SHA-256 of the previous one, the epoch's sums and counts, and the hashes of
    its weights and predictions; the first follows from seed, start, learning rate and recipe. The hash of
    the best epoch's predictions is that of the prediction files. The training states kept are those that the
    commitments draw. Shows that the file is consistent with itself, not that it is true.

    Source: the results schema; `grader/commitments.py`.
    """
    results = evidence.results
    runs = [run for run in results.runs if run.epochs]
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
    before = commitments.of_start(start, evidence.results.recipe)
    chain = []
    for epoch in run.epochs:
        weights, predictions = epoch.weights_sha256 or "", epoch.predictions_sha256 or ""
        if epoch.commitment != commitments.of_epoch(before, epoch, weights, predictions):
            yield f"{run.name}, epoch {epoch.epoch}: the commitment does not follow from the epoch's figures."
        before = epoch.commitment or ""
        chain.append(before)
    found = [evidence.predictions.get((run.name, split)) for split in SPLITS]
    if run.best is not None and None not in found:
        columns = [(rows.predicted, rows.nll) for rows in found if rows is not None]
        if commitments.of_predictions(columns) != run.best.predictions_sha256:
            yield f"{run.name}: the prediction files are not those that epoch {run.best_epoch} committed to."
    kept = [state.epoch for state in run.states]
    drawn = commitments.drawn_epochs(evidence.results.keep_states, evidence.results.epochs, chain)
    if kept != drawn:
        yield f"{run.name}: the commitments draw the states after epochs {drawn}, but {kept} were kept."


def replay_agrees(evidence: Evidence) -> Finding:
    """Training again from the recorded start gives the recorded epochs.

    Rule: each replayed epoch has the hashes that were recorded for its weights and predictions; or, where
    another processor, number of threads, library or precision rounds differently, its training loss differs
    by at most 2%, and the correct predictions on validation and test by at most 4 times the square root of
    half the images that either got wrong (at least two). A start has the recorded hash; a start from
    random weights may differ on another platform.

    Source: `finetune replay`, run by the grader; tolerances measured in docs/grading.md.
    """
    found = evidence.replay
    if found is None or found.failure:
        if found is not None and found.states and any(found.states.values()):
            return from_problems(found.states, Level.REPLAY, "")
        return not_checked(found.failure if found else "Requires --replay.", Level.REPLAY)
    runs = {run.name: run for run in evidence.results.runs}
    problems: dict[str, list[str]] = {}
    n_epochs = n_identical = 0
    for passage in found.passages:
        item = problems.setdefault(f"{passage.run} from epoch {passage.first}", [])
        item.extend(_start_problems(evidence, runs[passage.run], passage))
        recorded = {epoch.epoch: epoch for epoch in runs[passage.run].epochs}
        if not passage.epochs:
            item.append(f"{passage.run}: training again from epoch {passage.first} gave no finite loss.")
        for again in passage.epochs:
            epoch = recorded[again["epoch"]]
            n_epochs += 1
            if _is_identical(epoch, again):
                n_identical += 1
            else:
                precisions = {evidence.results.precision, found.precision}
                tolerance = max(LOSS_TOLERANCES[p] for p in precisions)
                differences = _differences(epoch, again, tolerance)
                item.extend(f"{passage.run}, epoch {epoch.epoch}: {text}" for text in differences)
    summary = f"{counted(n_epochs, 'epoch')} trained again: {n_identical} bit for bit, "
    summary += f"{n_epochs - n_identical} within the tolerance of rounding."
    finding = from_problems(problems, Level.REPLAY, summary)
    notes = [f"--replay-seed {found.seed} repeats the draws."]
    if found.omitted:
        notes.append(f"Left out for lack of time: {', '.join(found.omitted)}.")
    numbers = {"epochs": n_epochs, "identical": n_identical}
    return replace(finding, details=(*finding.details, *notes), numbers=numbers)


def _is_identical(epoch: Epoch, again: Mapping[str, Any]) -> bool:
    hashes = (epoch.weights_sha256, epoch.predictions_sha256)
    return hashes == (again["weights_sha256"], again["predictions_sha256"]) and not any(
        epoch.on(split).n_correct != again[split]["n_correct"]
        or epoch.on(split).loss_sum != again[split]["loss_sum"]
        for split in ("train", *SPLITS)
    )


def _start_problems(evidence: Evidence, run: Run, passage: Passage) -> Iterator[str]:
    here = evidence.replay.environment if evidence.replay else None
    same_platform = here is not None and here["platform"] == evidence.results.platform
    if (
        passage.first == 1
        and (same_platform or run.init != "random")
        and passage.initial_sha256 != run.initial_sha256
    ):
        yield f"{run.name}: seed and weights give another start than the recorded one."


def _differences(epoch: Epoch, again: Mapping[str, Any], tolerance: float) -> Iterator[str]:
    """What rounding does not explain."""
    loss, expected = epoch.train.loss_sum, again["train"]["loss_sum"]
    if abs(loss - expected) > tolerance * expected:
        yield f"the training loss was recorded as {loss:.6g}, but training again gives {expected:.6g}."
    for split in SPLITS:
        n, n_again = epoch.on(split).n_correct, again[split]["n_correct"]
        n_wrong = 2 * epoch.on(split).n_samples - n - n_again
        if abs(n - n_again) > max(2, TIES * (n_wrong / 2) ** 0.5):
            yield f"{n:,} correct predictions on {split} were recorded, but training again gives {n_again:,}."
