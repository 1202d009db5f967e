"""How an epoch that was trained again compares with what a run or trial recorded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import log
from typing import Any

from grader.isolated.replay import Passage
from grader.submission.parts import Metrics
from grader.submission.record import SPLITS, Results

CLOSE = 0.003
"""Difference of a replayed epoch's training loss up to which rounding explains it, relative to the loss and
to its distance from ln K, that of guessing: where little was learned, all losses are alike. Measured from
pretrained weights: up to 0.0015 in fp32 with other vector instructions, 0.001 in the first epoch between bf16
and fp32; 0.005 and more with another order, rate, seed or start."""

FAR = {"pretrained": 0.05, "random": 0.25}
"""Difference that no rounding explains, by initial weights. From random weights rounding alone changed the
loss of the first two epochs by up to 12%, so that only equal hashes agree."""

CALM_RATE = 0.02
"""Peak learning rate at which the tolerances were measured; it limits trials alone, which go far above it."""

FAR_LATER = 1.0
"""The same for epochs after one that was not bit-identical. Differences grow from epoch to epoch while losses
fall: between bf16 and fp32, B's differed by 29% within six epochs (docs/detection.md)."""

TIES = 4
"""Differences in the number of correct predictions that no rounding explains, in standard deviations."""

FEW = 2
"""Correct predictions that rounding may tip, however few are incorrect."""

CLOSE_HELD_OUT, CLOSE_TIES = 0.05, 1
"""Differences of the losses on validation and test, and of the numbers of correct predictions in standard
deviations, up to which rounding explains them where the training loss is close."""

SAME_WEIGHTS = 0.001
"""Difference of a loss that rounding makes in evaluation alone: identical weights differ in nothing else."""


class Outcome(StrEnum):
    """How a replayed epoch compares with the recorded one."""

    IDENTICAL = "identical"
    CLOSE = "close"
    UNCLEAR = "unclear"
    OTHER = "other"


@dataclass(frozen=True)
class CommittedEpoch:
    """What an epoch of a run or of a trial committed to; `figures` by split, for a trial without `test`."""

    figures: Mapping[str, Metrics]
    weights_sha256: str | None
    predictions_sha256: str | None


@dataclass(frozen=True)
class Recorded:
    """What the results say of a run or trial that was trained again.

    Attributes:
        name: For people.
        init: `pretrained` or `random`.
        initial_sha256: Of the network at the start.
        epochs: From the first.
        is_untold: Whether its rate is one for which no tolerance was measured: near divergence rounding grows
            fast.
    """

    name: str
    init: str
    initial_sha256: str
    epochs: Sequence[CommittedEpoch]
    is_untold: bool = False


def recorded(results: Results, passage: Passage) -> Recorded:
    """What the results say of a passage."""
    if passage.trial is None or results.tuning is None:
        run = next(run for run in results.runs if run.name == passage.run)
        epochs = [
            CommittedEpoch(
                {split: epoch.on(split) for split in ("train", *SPLITS)},
                epoch.weights_sha256,
                epoch.predictions_sha256,
            )
            for epoch in run.epochs
        ]
        return Recorded(run.name, run.init, run.initial_sha256, epochs)
    trial = results.tuning.trials[passage.trial]
    init = next(variant.init for variant in results.variants if variant.name == trial.variant)
    epochs = [
        CommittedEpoch({"train": own.train, "val": val}, own.weights_sha256, own.predictions_sha256)
        for own, val in zip(trial.commitments, trial.validation, strict=False)
    ]
    return Recorded(trial.name, init, trial.initial_sha256, epochs, trial.learning_rate > CALM_RATE)


def compared(
    run: Recorded, again: Mapping[str, Any], n_classes: int, starts_same: bool
) -> tuple[Outcome, str]:
    """How a replayed epoch compares, and what is wrong if it is another one.

    Args:
        run: recorded.
        again: the replayed epoch.
        n_classes: among which it predicts.
        starts_same: whether both began with the same weights, so that they differ by one epoch's rounding.
    """
    expected = again["train"]["loss_sum"]
    if again["epoch"] > len(run.epochs):  # a trial that diverged, it says
        mean = expected / again["train"]["n_samples"]
        if mean >= log(n_classes):
            return Outcome.UNCLEAR, ""
        return (
            Outcome.OTHER,
            f"it is recorded as diverged, but training again gives a mean loss of {mean:.3g}.",
        )
    epoch = run.epochs[again["epoch"] - 1]
    if _is_identical(epoch, again):
        return Outcome.IDENTICAL, ""
    loss = epoch.figures["train"].loss_sum
    _, difference = _apart(epoch.figures["train"], again["train"])
    if difference > (FAR[run.init] if starts_same else FAR_LATER):
        return (
            Outcome.OTHER,
            f"the training loss was recorded as {loss:.6g}, but training again gives {expected:.6g}.",
        )
    if epoch.weights_sha256 == again["weights_sha256"]:
        return _compared_with_the_same_weights(epoch, again)
    learned = abs(epoch.figures["train"].n_samples * log(n_classes) - expected)
    is_close = run.init == "pretrained" and abs(loss - expected) <= CLOSE * min(loss, expected, learned)
    for split in epoch.figures.keys() - {"train"} if run.init == "pretrained" else ():
        figures = epoch.figures[split]
        n_apart, apart = _apart(figures, again[split])
        n, n_again = figures.n_correct, again[split]["n_correct"]
        deviation = (figures.n_samples - (n + n_again) / 2) ** 0.5
        if starts_same and n_apart > max(FEW, TIES * deviation):
            return (
                Outcome.OTHER,
                f"{n:,} correct predictions on {split} were recorded, but training again gives {n_again:,}.",
            )
        is_close &= apart <= CLOSE_HELD_OUT and n_apart <= max(FEW, CLOSE_TIES * deviation)
    return (Outcome.CLOSE if is_close else Outcome.UNCLEAR), ""


def has_same_bits(run: Recorded, again: Mapping[str, Any]) -> bool:
    """Whether a replayed epoch moved the weights to the recorded ones, or to their predictions, bit for bit.

    Only the same instructions round alike over a whole epoch; whoever invents the hash of the weights must
    invent that of the predictions, too. Weights that never moved show nothing.
    """
    number = again["epoch"]
    if number > len(run.epochs):
        return False
    before = run.epochs[number - 2].weights_sha256 if number > 1 else run.initial_sha256
    epoch = run.epochs[number - 1]
    alike = epoch.weights_sha256 == again["weights_sha256"] or (
        epoch.predictions_sha256 is not None and epoch.predictions_sha256 == again["predictions_sha256"]
    )
    return bool(alike and again["weights_sha256"] != before)


def _compared_with_the_same_weights(epoch: CommittedEpoch, again: Mapping[str, Any]) -> tuple[Outcome, str]:
    """Training was the same bit for bit, so what the weights give differs at most by rounding."""
    for split, figures in epoch.figures.items():
        n_apart, apart = _apart(figures, again[split])
        if n_apart > FEW or apart > SAME_WEIGHTS:
            return (
                Outcome.OTHER,
                f"the weights are the recorded ones, but {figures.n_correct:,} correct and a loss of "
                f"{figures.loss_sum:.6g} were recorded on {split}, and they give "
                f"{again[split]['n_correct']:,} and {again[split]['loss_sum']:.6g}.",
            )
    return Outcome.CLOSE, ""


def _apart(found: Metrics, again: Mapping[str, Any]) -> tuple[int, float]:
    """By how many correct predictions, and by what share of the smaller loss, two results differ."""
    smaller = max(1e-9, min(found.loss_sum, again["loss_sum"]))
    return abs(found.n_correct - again["n_correct"]), abs(found.loss_sum - again["loss_sum"]) / smaller


def _is_identical(epoch: CommittedEpoch, again: Mapping[str, Any]) -> bool:
    hashes = (epoch.weights_sha256, epoch.predictions_sha256)
    return hashes == (again["weights_sha256"], again["predictions_sha256"]) and not any(
        found.n_correct != again[split]["n_correct"] or found.loss_sum != again[split]["loss_sum"]
        for split, found in epoch.figures.items()
    )
