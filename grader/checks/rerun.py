"""Level 4: the stored weights produce the stored predictions."""

from collections.abc import Iterator
from dataclasses import replace
from math import sqrt
from typing import TYPE_CHECKING

from grader.evidence.gathered import Evidence
from grader.findings import Finding, Level, counted, from_problems, not_checked

if TYPE_CHECKING:
    from grader.submission.predictions import Predictions

NLL_TOLERANCES = {"fp32": 0.02, "bf16": 0.1}
"""Absolute and relative difference of an image's loss. Where a CPU without bf16 evaluates a network trained
in bf16, in fp32 or with other kernels, up to 31% of an honest file's losses change by 2% and 0.02, but no
more than 3.7% by 10% and 0.1 (docs/detection.md)."""

MEAN_TOLERANCE = 0.02  # of the mean of these differences: rounding goes both ways, at most 0.011 was measured

TOLERATED_SHARES = {"fp32": 0.01, "bf16": 0.05}
"""Share of images whose predicted class may change, and of those whose loss may change by more. For three
variants trained in bf16 on Flowers-102 at 64 px and evaluated in fp32 or with other kernels, the predicted
class of 0.7% to 2.4% of the images changes."""
GAIN_PER_ROOT = 3  # standard deviations of a random walk whose every step counts
CORRECT_TOLERANCE = 0.01  # share of images by which the number of correct predictions may differ


def checkpoints_intact(evidence: Evidence) -> Finding:
    """The checkpoints are the ones that the run wrote.

    Rule: every checkpoint that the submission contains has its recorded SHA-256; with --rerun, it contains
    every checkpoint named in the results file.

    Source: the results schema.
    """
    rerun = evidence.rerun
    if rerun is None and evidence.checkpoints:
        present = {found.path: found.altered for found in evidence.checkpoints.values()}
        summary = f"{counted(len(present), 'checkpoint')} with the recorded SHA-256."
        return from_problems(present, Level.CHECKPOINTS, summary)
    if rerun is None or not rerun.checkpoints:
        return not_checked(rerun.failure if rerun else "Requires --rerun.", Level.CHECKPOINTS)
    summary = f"All {len(rerun.checkpoints)} checkpoints match their recorded SHA-256."
    return from_problems(rerun.checkpoints, Level.CHECKPOINTS, summary)


def rerun_agrees(evidence: Evidence) -> Finding:
    """Predictions recomputed from the checkpoints match the stored ones.

    Rule: the images and labels are the same. At most 1% of the images of a file (5% for a run in bf16; at
    least one image) have another predicted class, and at most as many an nll or a −ln confidence that
    changes by more than 0.02 + 2% (0.1 + 10% in bf16); where that allows more than one image, the mean nll
    changes by at most 0.02 + 2%. The number of correct predictions changes by at most 1% of the images and
    3 * sqrt(f) if the predicted class of f images changes (at least two). Rounding differs between machines,
    coarsely in bf16; it tips ties, but equally often in either direction: the gain is a random walk of at
    most f steps.

    Source: `finetune evaluate`, run by the grader.
    """
    import numpy as np

    rerun, precision = evidence.rerun, evidence.results.precision
    if rerun is None or rerun.failure:
        return not_checked(rerun.failure if rerun else "Requires --rerun.", Level.CHECKPOINTS)
    problems: dict[str, list[str]] = {}
    for (name, split), stored in evidence.predictions.items():
        recomputed = rerun.predictions.get((name, split))
        found = problems.setdefault(f"{name} {split}", [])
        if recomputed is None:
            found.append(f"{name}, {split}: no predictions could be recomputed.")
        elif recomputed.sample_ids != stored.sample_ids or not np.array_equal(
            recomputed.labels, stored.labels
        ):
            found.append(f"{name}, {split}: the local data set has other images or labels.")
        else:
            found.extend(f"{name}, {split}: {why}" for why in _differences(stored, recomputed, precision))
    if not problems:
        return not_checked("There are no stored predictions to compare with.", Level.CHECKPOINTS)
    summary = f"All {len(problems)} prediction files match the recomputed predictions."
    finding = from_problems(problems, Level.CHECKPOINTS, summary)
    if rerun.is_offline:
        return finding
    note = "The evaluation had network access, because this system does not permit removing it."
    return replace(finding, details=(*finding.details, note))


def _differences(stored: "Predictions", recomputed: "Predictions", precision: str) -> Iterator[str]:
    """What rounding does not explain between predictions of the same images."""
    import numpy as np

    n_images = len(stored.labels)
    most = max(1, TOLERATED_SHARES[precision] * n_images)
    tipped = int((recomputed.predicted != stored.predicted).sum())
    changes = [(recomputed.nll - stored.nll) / (1 + stored.nll)]
    if stored.confidence is not None and recomputed.confidence is not None:
        surprise = -np.log(stored.confidence)
        changes.append((-np.log(recomputed.confidence) - surprise) / (1 + surprise))
    n_far = int((np.abs(changes) > NLL_TOLERANCES[precision]).any(axis=0).sum())
    if max(tipped, n_far) > most:
        yield f"{max(tipped, n_far):,} of {n_images:,} images have other predictions."
        return
    mean, mean_stored = float(recomputed.nll.mean()), float(stored.nll.mean())
    if abs(mean - mean_stored) > MEAN_TOLERANCE * (1 + mean_stored) and most > 1:
        yield f"the mean loss is {mean:.4g}, but {mean_stored:.4g} of the stored predictions."
    n_correct, n_stored = int(recomputed.correct.sum()), int(stored.correct.sum())
    if abs(n_correct - n_stored) > max(2, min(CORRECT_TOLERANCE * n_images, GAIN_PER_ROOT * sqrt(tipped))):
        yield (f"{n_correct:,} of {n_images:,} predictions are correct, but {n_stored:,} of the stored ones.")
