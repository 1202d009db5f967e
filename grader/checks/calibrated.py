"""Levels 2 and 4: the temperature is the one that the validation images give."""

from collections.abc import Iterator, Mapping
from math import log, sqrt
from typing import TYPE_CHECKING, Any

from grader.evidence.gathered import Evidence
from grader.findings import Finding, Level, counted, from_problems, not_checked
from grader.submission.record import SPLITS, Run

if TYPE_CHECKING:
    from grader.submission.parts import Calibration

CLOSE = 0.02
"""Relative difference of temperatures that rounding of the logits explains: up to 1.3% between bf16's kernels
with and without AVX-512, for 40 validation images."""

HARMLESS = 1e-4
"""Mean loss in nats by which a temperature may be worse than the best one: where nearly all images are right,
many do about equally well, and rounding decides among them."""

MOVED = {"fp32": 0.001, "bf16": 0.05}
"""Share of images that rounding moves to the next bin of confidence, where their whole distance from being
right counts: each in either direction, so that their root counts, three times. Between the same kernels the
error changed by 0.045 with 40 test images."""
MOVED_AT_LEAST = 2  # images

EXACT = 1e-4
"""Relative difference of temperatures, and difference of errors, where the predictions are bit-identical."""

N_TRIED = 80
ROUNDING = 1e-5  # nats


def temperature_fits(evidence: Evidence) -> Finding:
    """The temperature and the calibration error after scaling are those of the network.

    Rule: no temperature from 0.01 to 100 gives a lower mean loss on validation than the recorded one. Without
    the logits, two probabilities of each image are known, which bound its loss at any temperature: fails if
    the least possible loss at the recorded temperature exceeds the largest possible loss at another one (at
    temperature 1 the loss is known; with two classes, at all). With --rerun, the temperature is fitted again
    to the logits of the checkpoint, and the expected calibration error on test is computed again, with the
    logits divided by the recorded temperature. Where the recomputed predictions are the stored ones bit for
    bit, both must be within 0.0001 (relative, absolute). Elsewhere the temperature differs by at most 2%, or
    costs at most 0.0001 nats, and the error by at most 2/n + 3 * sqrt(s/n) for n images, of which rounding
    moves a share s of 0.001 (0.05 in bf16) across the limits of bins.

    Source: C. Guo et al., On calibration of modern neural networks (ICML 2017), section 4.2;
    `finetune evaluate`.
    """
    found = evidence.rerun.recomputed if evidence.rerun else {}
    problems: dict[str, list[str]] = {}
    level = Level.PREDICTIONS
    for run in evidence.chosen:
        again = found.get(run.name, {}).get("calibration")
        if run.calibration is None:
            continue
        if again is not None:
            level = Level.CHECKPOINTS
            problems[run.name] = list(_refuted(evidence, run, run.calibration, again))
        elif (run.name, "val") in evidence.predictions:
            problems[run.name] = list(_impossible(evidence, run, run.calibration))
    if not problems:
        why = "There are no predictions or temperatures to compare (version 1 of the results has none)."
        return not_checked(why, level)
    how = "recomputed from the logits" if level is Level.CHECKPOINTS else "possible, given the predictions"
    verb = "is" if len(problems) == 1 else "are"
    return from_problems(problems, level, f"{counted(len(problems), 'temperature')} {verb} {how}.")


def _refuted(
    evidence: Evidence, run: Run, recorded: "Calibration", again: Mapping[str, Any]
) -> Iterator[str]:
    """What the logits of the checkpoint say against the recorded calibration."""
    fitted, is_exact = again["temperature"], _is_identical(evidence, run)
    difference = abs(log(recorded.temperature / fitted))
    if difference > (EXACT if is_exact else CLOSE) and again["excess"] > (0 if is_exact else HARMLESS):
        yield (
            f"{run.name}: the temperature was recorded as {recorded.temperature:.4g}, but its network has "
            f"{fitted:.4g}."
        )
    n_test = run.best.test.n_samples if run.best else 1
    moved = MOVED[evidence.results.precision]
    most = EXACT if is_exact else MOVED_AT_LEAST / n_test + 3 * sqrt(moved / n_test)
    if abs(recorded.ece_test_scaled - again["ece_test_scaled"]) > most:
        yield (
            f"{run.name}: with the temperature, the calibration error on test was recorded as "
            f"{recorded.ece_test_scaled:.4f}, but is {again['ece_test_scaled']:.4f}."
        )


def _is_identical(evidence: Evidence, run: Run) -> bool:
    """Whether the recomputed losses of a run are the stored ones bit for bit; then its logits are, too."""
    import numpy as np

    again = evidence.rerun.predictions if evidence.rerun else {}
    pairs = [(evidence.predictions.get((run.name, s)), again.get((run.name, s))) for s in SPLITS]
    return all(
        stored is not None and found is not None and np.array_equal(stored.nll, found.nll)
        for stored, found in pairs
    )


def _impossible(evidence: Evidence, run: Run, recorded: "Calibration") -> Iterator[str]:
    """Whether another temperature is better, however the unknown probabilities are divided."""
    import numpy as np

    from grader.statistics.calibration import TEMPERATURES, loss_limits

    rows = evidence.predictions[run.name, "val"]
    if rows.confidence is None:
        return
    tried = np.array([recorded.temperature, 1.0, *np.geomspace(*TEMPERATURES, N_TRIED)])
    n_classes = len(evidence.results.classes)
    with np.errstate(all="ignore"):  # a made-up loss of 1e308 becomes infinite at a low temperature
        low, high = loss_limits(rows.nll, rows.confidence, rows.correct, n_classes, tried)
    better = int(high.argmin())
    if low[0] > high[better] + ROUNDING:
        yield (
            f"{run.name}: at the recorded temperature {recorded.temperature:.4g}, the loss on validation is "
            f"at least {low[0]:.4g}, but at {tried[better]:.3g} at most {high[better]:.4g}: it is not the "
            "best one."
        )
