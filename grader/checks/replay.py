"""Level 5: training again gives what was recorded; and level 1: the chain of commitments."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import log
from typing import Any

from grader import commitments
from grader.evidence import Evidence
from grader.findings import Finding, Level, Status, counted, from_problems, not_checked
from grader.record import SPLITS, Metrics, Run
from grader.replay import Passage

CLOSE = 0.003
"""Relative difference of a replayed epoch's training loss up to which rounding explains it. Measured from
pretrained weights: up to 0.0015 in fp32 with other vector instructions, 0.001 in the first epoch between bf16
and fp32; 0.005 and more with another order, rate, seed or start."""

FAR = {"pretrained": 0.05, "random": 0.25}
"""Difference that no rounding explains, by initial weights. From random weights rounding alone changed the
loss of the first two epochs by up to 12%, so that only equal hashes agree."""

CALM_RATE = 0.02
"""Peak learning rate at which the tolerances were measured; it limits trials alone, which go far above it."""

TIES = 4
"""Differences in the number of correct predictions that no rounding explains, in standard deviations."""

FEW = 2
"""Correct predictions that rounding may tip, however few are incorrect."""

CLOSE_HELD_OUT, CLOSE_TIES = 0.02, 1
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

    Rule: trained again are the first epoch of each run (or as many as --replay-epochs says), the epoch after
    a kept state, and as many epochs of one trial of each variant, drawn at random. A replayed epoch agrees if
    its weights and predictions have the recorded hashes, as on the same kind of processor with as many
    threads and the same libraries; elsewhere, for a run from pretrained weights, if its training loss differs
    by at most 0.3%, its losses on validation and test by at most 2%, and their numbers of correct predictions
    by at most the square root of the mean number of incorrect ones (or 2). It disagrees if the training loss
    differs by more than 5%, or such a number by more than 4 times that square root; for a run from random
    weights, in which rounding grows fast, if the training loss differs by more than 25%. It also disagrees if
    it has the recorded weights, but gives other predictions with them: losses that differ by more than 0.1%,
    or more than 2 correct ones. Otherwise it is inconclusive. A trial that is recorded as diverged where
    training again gives a finite loss is inconclusive, and disagrees if the mean loss is below ln K, that of
    guessing among K classes. A trial at a rate above 0.02, for which nothing was measured, disagrees only on
    the machine and with the libraries that the results name. A start must have the recorded hash; one from
    random weights, on the same kind of machine and version of PyTorch. Holds if every epoch agrees, fails if
    one disagrees. An epoch that is inconclusive on the machine and with the libraries that the run names
    should have agreed bit for bit: the finding says so.

    Source: `finetune replay`, run by the grader; tolerances measured in docs/grading.md.
    """
    found = evidence.replay
    if found is None or found.failure:
        if found is not None and found.states and any(found.states.values()):
            return from_problems(found.states, Level.REPLAY, "")
        return not_checked(found.failure if found else "Requires --replay.", Level.REPLAY)
    problems: dict[str, list[str]] = {}
    counts = dict.fromkeys(_Outcome, 0)
    for passage in found.passages:
        recorded = _recorded(evidence, passage)
        item = problems.setdefault(f"{recorded.name} from epoch {passage.first}", [])
        item.extend(_start_problems(evidence, recorded, passage))
        wanted = min(found.epochs, len(recorded.epochs)) if passage.first == 1 else 1
        if len(passage.epochs) < wanted:
            lost = passage.first + len(passage.epochs)
            item.append(f"{recorded.name}: training epoch {lost} again gave no finite loss.")
        for again in passage.epochs:
            outcome, problem = _compared(recorded, again, len(evidence.results.classes))
            if outcome is _Outcome.OTHER and recorded.is_untold and not _is_here(evidence):
                outcome, problem = _Outcome.UNCLEAR, ""
            counts[outcome] += 1
            item.extend([f"{recorded.name}, epoch {again['epoch']}: {problem}"] if problem else [])
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
    if _is_here(evidence) and evidence.results.environment["device"] == "cpu":
        return (
            "The run names this kind of processor, these libraries and as many threads, with which an honest "
            "replay is bit-identical unless the vector instructions differ: ask where it was trained."
        )
    return "The kind of machine, number of threads and libraries of the run would settle it."


def _is_here(evidence: Evidence) -> bool:
    """Whether the results name this kind of machine, these libraries and this precision."""
    found, recorded = evidence.replay, evidence.results.environment
    here = (found and found.environment) or {}
    same = all(here.get(name) == recorded[name] for name in SAME_RESULT)
    return same and found is not None and found.precision == evidence.results.precision


class _Outcome(StrEnum):
    """How a replayed epoch compares with the recorded one."""

    IDENTICAL = "identical"
    CLOSE = "close"
    UNCLEAR = "unclear"
    OTHER = "other"


@dataclass(frozen=True)
class _Epoch:
    """What an epoch of a run or of a trial committed to; `figures` by split, for a trial without `test`."""

    figures: Mapping[str, Metrics]
    weights_sha256: str | None
    predictions_sha256: str | None


@dataclass(frozen=True)
class _Recorded:
    """What the results say of a run or trial that was trained again."""

    name: str
    init: str
    initial_sha256: str
    epochs: Sequence[_Epoch]
    is_untold: bool = False
    """Whether its rate is one for which no tolerance was measured: near divergence rounding grows fast."""


def _recorded(evidence: Evidence, passage: Passage) -> _Recorded:
    results = evidence.results
    if passage.trial is None:
        run = next(run for run in results.runs if run.name == passage.run)
        epochs = [
            _Epoch(
                {split: epoch.on(split) for split in ("train", *SPLITS)},
                epoch.weights_sha256,
                epoch.predictions_sha256,
            )
            for epoch in run.epochs
        ]
        return _Recorded(run.name, run.init, run.initial_sha256, epochs)
    trial = results.tuning.trials[passage.trial] if results.tuning else None
    variant = results.variant(trial.variant) if trial else None
    assert trial is not None  # noqa: S101 - the grader drew them from these
    assert variant is not None  # noqa: S101
    epochs = [
        _Epoch({"train": own.train, "val": val}, own.weights_sha256, own.predictions_sha256)
        for own, val in zip(trial.commitments, trial.validation, strict=False)
    ]
    is_untold = trial.learning_rate > CALM_RATE
    return _Recorded(trial.name, variant.init, trial.initial_sha256, epochs, is_untold)


def _compared(recorded: _Recorded, again: Mapping[str, Any], n_classes: int) -> tuple[_Outcome, str]:
    """How a replayed epoch compares, and what is wrong if it is another one."""
    expected = again["train"]["loss_sum"]
    if again["epoch"] > len(recorded.epochs):  # a trial that diverged, it says
        mean = expected / again["train"]["n_samples"]
        if mean >= log(n_classes):
            return _Outcome.UNCLEAR, ""
        return (
            _Outcome.OTHER,
            f"it is recorded as diverged, but training again gives a mean loss of {mean:.3g}.",
        )
    epoch = recorded.epochs[again["epoch"] - 1]
    if _is_identical(epoch, again):
        return _Outcome.IDENTICAL, ""
    loss = epoch.figures["train"].loss_sum
    _, difference = _apart(epoch.figures["train"], again["train"])
    if difference > FAR[recorded.init]:
        return (
            _Outcome.OTHER,
            f"the training loss was recorded as {loss:.6g}, but training again gives {expected:.6g}.",
        )
    if epoch.weights_sha256 == again["weights_sha256"]:
        return _compared_with_the_same_weights(epoch, again)
    held_out = epoch.figures.keys() - {"train"} if recorded.init == "pretrained" else ()
    is_close = difference <= CLOSE and recorded.init == "pretrained"
    for split in held_out:
        figures = epoch.figures[split]
        n_apart, apart = _apart(figures, again[split])
        n, n_again = figures.n_correct, again[split]["n_correct"]
        deviation = (figures.n_samples - (n + n_again) / 2) ** 0.5
        if n_apart > max(FEW, TIES * deviation):
            return (
                _Outcome.OTHER,
                f"{n:,} correct predictions on {split} were recorded, but training again gives {n_again:,}.",
            )
        is_close &= apart <= CLOSE_HELD_OUT and n_apart <= max(FEW, CLOSE_TIES * deviation)
    return (_Outcome.CLOSE if is_close else _Outcome.UNCLEAR), ""


def _compared_with_the_same_weights(epoch: _Epoch, again: Mapping[str, Any]) -> tuple[_Outcome, str]:
    """Training was the same bit for bit, so what the weights give differs at most by rounding."""
    for split, figures in epoch.figures.items():
        n_apart, apart = _apart(figures, again[split])
        if n_apart > FEW or apart > SAME_WEIGHTS:
            return (
                _Outcome.OTHER,
                f"the weights are the recorded ones, but {figures.n_correct:,} correct and a loss of "
                f"{figures.loss_sum:.6g} were recorded on {split}, and they give "
                f"{again[split]['n_correct']:,} and {again[split]['loss_sum']:.6g}.",
            )
    return _Outcome.CLOSE, ""


def _apart(recorded: Metrics, again: Mapping[str, Any]) -> tuple[int, float]:
    """By how many correct predictions, and by what share of the loss, two results differ."""
    n_apart = abs(recorded.n_correct - again["n_correct"])
    return n_apart, abs(recorded.loss_sum - again["loss_sum"]) / max(again["loss_sum"], 1e-9)


def _is_identical(epoch: _Epoch, again: Mapping[str, Any]) -> bool:
    hashes = (epoch.weights_sha256, epoch.predictions_sha256)
    return hashes == (again["weights_sha256"], again["predictions_sha256"]) and not any(
        found.n_correct != again[split]["n_correct"] or found.loss_sum != again[split]["loss_sum"]
        for split, found in epoch.figures.items()
    )


def _start_problems(evidence: Evidence, run: _Recorded, passage: Passage) -> Iterator[str]:
    here = (evidence.replay and evidence.replay.environment) or {}
    there = evidence.results.environment
    same_platform = all(here.get(name) == there[name] for name in PLATFORM)
    if (
        passage.first == 1
        and (same_platform or run.init != "random")
        and passage.initial_sha256 != run.initial_sha256
    ):
        yield f"{run.name}: seed and weights give another start than the recorded one."
