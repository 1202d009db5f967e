"""Level 4: the stored weights produce the stored predictions."""

from dataclasses import replace
from math import sqrt

from grader.evidence.gathered import Evidence
from grader.findings import Finding, Level, counted, from_problems, not_checked

NLL_TOLERANCE = 0.02  # absolute and relative; another CPU, or TF32, changes a loss by less
TOLERATED_SHARES = {"fp32": 0.01, "bf16": 0.05}
"""Share of images that may differ because of near-ties. For three variants trained in bf16 on Flowers-102 at
64 px and evaluated in fp32 or with other kernels, the predicted class of 0.7% to 2.4% of the images changes,
but no nll changes by 0.02 + 2%."""
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
    least one image) differ: the predicted class changes, or the nll or −ln confidence changes by more than
    0.02 + 2%. The number of correct predictions changes by at most 1% of the images and 3 * sqrt(f) if the
    predicted class of f images changes (at least two). Rounding differs between machines, coarsely in bf16;
    it tips ties, but equally often in either direction: the gain is a random walk of at most f steps.

    Source: `finetune evaluate`, run by the grader.
    """
    import numpy as np

    rerun = evidence.rerun
    if rerun is None or rerun.failure:
        return not_checked(rerun.failure if rerun else "Requires --rerun.", Level.CHECKPOINTS)
    tolerated = TOLERATED_SHARES[evidence.results.precision]
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
            differs = np.abs(recomputed.nll - stored.nll) > NLL_TOLERANCE * (1 + stored.nll)
            tipped = recomputed.predicted != stored.predicted
            differs |= tipped
            if stored.confidence is not None and recomputed.confidence is not None:
                surprise, stored_surprise = -np.log(recomputed.confidence), -np.log(stored.confidence)
                differs |= np.abs(surprise - stored_surprise) > NLL_TOLERANCE * (1 + stored_surprise)
            n, n_images = int(differs.sum()), len(stored.labels)
            n_correct, n_stored = int(recomputed.correct.sum()), int(stored.correct.sum())
            if n > max(1, tolerated * n_images):
                found.append(f"{name}, {split}: {n:,} of {n_images:,} images have other predictions.")
            elif abs(n_correct - n_stored) > max(
                2, min(CORRECT_TOLERANCE * n_images, GAIN_PER_ROOT * sqrt(tipped.sum()))
            ):
                found.append(
                    f"{name}, {split}: {n_correct:,} of {n_images:,} predictions are correct, "
                    f"but {n_stored:,} of the stored ones."
                )
    if not problems:
        return not_checked("There are no stored predictions to compare with.", Level.CHECKPOINTS)
    summary = f"All {len(problems)} prediction files match the recomputed predictions."
    finding = from_problems(problems, Level.CHECKPOINTS, summary)
    if rerun.is_offline:
        return finding
    note = "The evaluation had network access, because this system does not permit removing it."
    return replace(finding, details=(*finding.details, note))
