"""Level 5: training again gives what was recorded; and level 1: the chain of commitments."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from enum import StrEnum
from math import log
from typing import Any

from grader import commitments
from grader.evidence import Evidence
from grader.findings import Finding, Level, Status, counted, from_problems, not_checked
from grader.record import SPLITS, Epoch, Metrics, Run
from grader.replay import Passage

CLOSE = 0.003
"""Difference of a replayed epoch's training loss up to which rounding explains it, relative to the loss and
to its distance from ln K, that of guessing: where little was learned, all losses are alike. Measured from
pretrained weights: up to 0.0015 in fp32 with other vector instructions, 0.001 in the first epoch between bf16
and fp32; 0.005 and more with another order, rate, seed or start."""

FAR = {"pretrained": 0.05, "random": 0.25}
"""Difference that no rounding explains, by initial weights. From random weights rounding alone changed the
loss of the first two epochs by up to 12%, so that only equal hashes agree."""

FAR_LATER = 1.0
"""The same for epochs after one that was not bit-identical. Differences grow from epoch to epoch while losses
fall: between bf16 and fp32, B's differed by 29% in the sixth epoch (docs/detection.md)."""

TIES = 4
"""Differences in the number of correct predictions that no rounding explains, in standard deviations."""

FEW = 2
"""Correct predictions that rounding may tip, however few are incorrect."""

CLOSE_HELD_OUT, CLOSE_TIES = 0.05, 1
"""Differences of the losses on validation and test, and of the numbers of correct predictions in standard
deviations, up to which rounding explains them where the training loss is close."""

SAME_WEIGHTS = 0.001
"""Difference of a loss that rounding makes in evaluation alone: identical weights differ in nothing else."""


PLATFORM = ("platform", "device_name", "torch")
"""Where these agree, random weights are the same: PyTorch draws normal values otherwise without AVX2."""

SAME_RESULT = (*PLATFORM, "numpy", "threads")
"""Where these agree, a replay on a CPU is bit-identical unless the vector instructions differ."""


def commitments_chain(evidence: Evidence) -> Finding:
    """Each epoch's commitment follows from its figures and from the epochs before it.

    Rule: every commitment is the SHA-256 of the previous one, the epoch's sums and counts, and the hashes of
    its weights and predictions; the first follows from seed, start, learning rate and recipe, with the
    variant's own epochs. The hash of
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


def replay_agrees(evidence: Evidence) -> Finding:
    """Training again from the recorded start gives the recorded epochs.

    Rule: a replayed epoch agrees if its weights and predictions have the recorded hashes, as on the same kind
    of processor with as many threads and the same libraries; elsewhere, for a run from pretrained weights, if
    its training loss differs by at most 0.3% of itself and of its distance to ln K, for K classes, its losses
    on validation and test by at most 5%, and their numbers of correct predictions by at most the square root
    of the mean number of incorrect ones (or 2). It disagrees if the training loss differs by more than 5%, or
    such a number by more than 4 times that square root; for a run from random weights, in which rounding
    grows fast, if the training loss differs by more than 25%; for epochs after one that did not agree bit for
    bit, if it differs by more than 100%. It also disagrees if it has the recorded weights, but gives other
    figures with them: losses that differ by more than 0.1%, or more than 2 correct predictions. Shares are of
    the smaller loss. Otherwise it is inconclusive. A start must have the recorded hash; one from random
    weights, on the same kind of machine and version of PyTorch. Holds if every epoch agrees, fails if one
    disagrees. On the machine and with the libraries that the run names, an honest epoch agrees bit for bit,
    so that close ones are inconclusive, and the finding says so.

    Source: `finetune replay`, run by the grader; tolerances measured in docs/detection.md.
    """
    found = evidence.replay
    if found is None or found.failure:
        if found is not None and found.states and any(found.states.values()):
            return from_problems(found.states, Level.REPLAY, "")
        return not_checked(found.failure if found else "Requires --replay.", Level.REPLAY)
    runs = {run.name: run for run in evidence.results.runs}
    problems: dict[str, list[str]] = {}
    counts = dict.fromkeys(_Outcome, 0)
    for passage in found.passages:
        run = runs[passage.run]
        item = problems.setdefault(f"{run.name} from epoch {passage.first}", [])
        item.extend(_start_problems(evidence, run, passage))
        if not passage.epochs:
            item.append(f"{run.name}: training again from epoch {passage.first} gave no finite loss.")
        before: _Outcome | None = None
        for again in passage.epochs:
            epoch = run.epochs[again["epoch"] - 1]
            starts_same = epoch.epoch == passage.first or before is _Outcome.IDENTICAL
            outcome, problem = _compared(epoch, again, run.init, starts_same, len(evidence.results.classes))
            before = outcome
            if outcome is _Outcome.CLOSE and _is_here(evidence):
                outcome = _Outcome.UNCLEAR  # bit for bit, or it was trained elsewhere
            counts[outcome] += 1
            item.extend([f"{run.name}, epoch {epoch.epoch}: {problem}"] if problem else [])
    n_unclear = counts[_Outcome.UNCLEAR]
    summary = (
        f"{counted(sum(counts.values()), 'epoch')} trained again: {counts[_Outcome.IDENTICAL]} bit for bit, "
    )
    summary += f"{counts[_Outcome.CLOSE]} but for rounding, {n_unclear} too sensitive to rounding to tell."
    finding = from_problems(problems, Level.REPLAY, summary)
    if finding.status is Status.HOLDS and n_unclear:
        summary += f" {_unclear_here(evidence)}"
        finding = replace(finding, status=Status.INCONCLUSIVE, summary=summary)
    notes = [f"--replay-seed {found.seed} repeats the draws."]
    if found.omitted:
        notes.append(f"Left out for lack of time: {', '.join(found.omitted)}.")
    if found.dependent:
        notes.append(f"Left out, because their head comes from another run: {', '.join(found.dependent)}.")
    numbers = {"identical": counts[_Outcome.IDENTICAL], "close": counts[_Outcome.CLOSE], "unclear": n_unclear}
    return replace(finding, details=(*finding.details, *notes), numbers=numbers)


def _unclear_here(evidence: Evidence) -> str:
    """What an inconclusive replay calls for, on this machine."""
    if _is_here(evidence):
        return (
            "The run names this kind of processor, these libraries and as many threads, with which an honest "
            "replay is bit-identical unless the vector instructions differ: ask where it was trained."
        )
    return "The kind of machine, number of threads and libraries of the run would settle it."


def _is_here(evidence: Evidence) -> bool:
    """Whether the results name this kind of processor, these libraries and this precision."""
    found, recorded = evidence.replay, evidence.results.environment
    here = (found and found.environment) or {}
    same = all(here.get(name) == recorded[name] for name in SAME_RESULT) and recorded["device"] == "cpu"
    return same and found is not None and found.precision == evidence.results.precision


class _Outcome(StrEnum):
    """How a replayed epoch compares with the recorded one."""

    IDENTICAL = "identical"
    CLOSE = "close"
    UNCLEAR = "unclear"
    OTHER = "other"


def _compared(
    epoch: Epoch, again: Mapping[str, Any], init: str, starts_same: bool, n_classes: int
) -> tuple[_Outcome, str]:
    """How a replayed epoch compares, and what is wrong if it is another one.

    Args:
        epoch: As recorded.
        again: As trained again.
        init: Initial weights of the run.
        starts_same: Whether both began with the same weights, so that they differ by one epoch's rounding.
        n_classes: Of the data set.
    """
    if _is_identical(epoch, again):
        return _Outcome.IDENTICAL, ""
    loss, expected = epoch.train.loss_sum, again["train"]["loss_sum"]
    _, difference = _apart(epoch.train, again["train"])
    if difference > (FAR[init] if starts_same else FAR_LATER):
        return (
            _Outcome.OTHER,
            f"the training loss was recorded as {loss:.6g}, but training again gives {expected:.6g}.",
        )
    if epoch.weights_sha256 == again["weights_sha256"]:
        return _compared_with_the_same_weights(epoch, again)
    learned = abs(epoch.train.n_samples * log(n_classes) - expected)
    is_close = init == "pretrained" and abs(loss - expected) <= CLOSE * min(loss, expected, learned)
    for split in SPLITS if init == "pretrained" else ():
        n_apart, apart = _apart(epoch.on(split), again[split])
        n, n_again = epoch.on(split).n_correct, again[split]["n_correct"]
        deviation = (epoch.on(split).n_samples - (n + n_again) / 2) ** 0.5
        if starts_same and n_apart > max(FEW, TIES * deviation):
            return (
                _Outcome.OTHER,
                f"{n:,} correct predictions on {split} were recorded, but training again gives {n_again:,}.",
            )
        is_close &= apart <= CLOSE_HELD_OUT and n_apart <= max(FEW, CLOSE_TIES * deviation)
    return (_Outcome.CLOSE if is_close else _Outcome.UNCLEAR), ""


def _compared_with_the_same_weights(epoch: Epoch, again: Mapping[str, Any]) -> tuple[_Outcome, str]:
    """Training was the same bit for bit, so what the weights give differs at most by rounding."""
    for split in ("train", *SPLITS):
        n_apart, apart = _apart(epoch.on(split), again[split])
        if n_apart > FEW or apart > SAME_WEIGHTS:
            figures = f"{epoch.on(split).n_correct:,} correct and a loss of {epoch.on(split).loss_sum:.6g}"
            return (
                _Outcome.OTHER,
                f"the weights are the recorded ones, but {figures} were recorded on {split}, and they give "
                f"{again[split]['n_correct']:,} and {again[split]['loss_sum']:.6g}.",
            )
    return _Outcome.CLOSE, ""


def _apart(recorded: Metrics, again: Mapping[str, Any]) -> tuple[int, float]:
    """By how many correct predictions, and by what share of the smaller loss, two results differ."""
    smaller = max(1e-9, min(recorded.loss_sum, again["loss_sum"]))
    n_apart = abs(recorded.n_correct - again["n_correct"])
    return n_apart, abs(recorded.loss_sum - again["loss_sum"]) / smaller


def _is_identical(epoch: Epoch, again: Mapping[str, Any]) -> bool:
    hashes = (epoch.weights_sha256, epoch.predictions_sha256)
    return hashes == (again["weights_sha256"], again["predictions_sha256"]) and not any(
        epoch.on(split).n_correct != again[split]["n_correct"]
        or epoch.on(split).loss_sum != again[split]["loss_sum"]
        for split in ("train", *SPLITS)
    )


def _start_problems(evidence: Evidence, run: Run, passage: Passage) -> Iterator[str]:
    here = (evidence.replay and evidence.replay.environment) or {}
    recorded = evidence.results.environment
    same_platform = all(here.get(name) == recorded[name] for name in PLATFORM)
    if (
        passage.first == 1
        and (same_platform or run.init != "random")
        and passage.initial_sha256 != run.initial_sha256
    ):
        yield f"{run.name}: seed and weights give another start than the recorded one."
