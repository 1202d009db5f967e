"""Level 4: the stored weights make the stored predictions."""

from grader.evidence import Evidence
from grader.findings import Finding, Level, from_problems, not_checked

NLL_TOLERANCE = 0.02  # absolute and relative; another processor, or TF32, moves a loss by less
TOLERATED_SHARES = {"fp32": 0.01, "bf16": 0.05}
"""Of images that may differ: near-ties. Three variants trained in bf16 on Flowers-102 at 64 px: evaluated in
fp32 or by other kernels, 0.7 to 2.4 % of the images get another class, while no nll moves by 0.02 + 2 %."""
GAIN = 0.01  # by how much, as a share of all images, the hits may differ


def checkpoints_intact(evidence: Evidence) -> Finding:
    """The checkpoints are the ones that the run wrote.

    Rule: each checkpoint that the results file names is there and has the recorded SHA-256.

    Source: the results schema.
    """
    rerun = evidence.rerun
    if rerun is None:
        return not_checked("The checkpoints were not looked at; --rerun does.", Level.CHECKPOINTS)
    summary = f"All {len(rerun.checkpoints)} checkpoints have their recorded SHA-256."
    return from_problems(rerun.checkpoints, Level.CHECKPOINTS, summary)


def rerun_agrees(evidence: Evidence) -> Finding:
    """Predictions made afresh from the checkpoints are the stored ones.

    Rule: the same images with the same labels; at most 1 % of the images of a file (5 % where the run was
    computed in bf16; one image at least) differ, where one differs when another class is predicted or its nll
    moves by more than 0.02 + 2 %; and hits differ by at most 1 % of the images (two at least). Machines round
    differently, bf16 coarsely, which tips near-ties, but as often to the wrong side as to the right one.

    Source: `finetune evaluate`, run by the grader.
    """
    import numpy as np

    rerun = evidence.rerun
    if rerun is None or rerun.failure:
        why = rerun.failure if rerun else "Predictions were not made afresh; --rerun does."
        return not_checked(why, Level.CHECKPOINTS)
    tolerated = TOLERATED_SHARES[evidence.results.precision]
    problems: dict[str, list[str]] = {}
    for (name, split), stored in evidence.predictions.items():
        fresh = rerun.predictions.get((name, split))
        found = problems.setdefault(f"{name} {split}", [])
        if fresh is None:
            found.append(f"{name}, {split}: the checkpoint made no predictions.")
        elif fresh.sample_ids != stored.sample_ids or not np.array_equal(fresh.labels, stored.labels):
            found.append(f"{name}, {split}: the data set here has other images or labels.")
        else:
            moved = np.abs(fresh.nll - stored.nll) > NLL_TOLERANCE * (1 + stored.nll)
            n, n_images = int((moved | (fresh.predicted != stored.predicted)).sum()), len(stored.labels)
            hits, stored_hits = (int((p.predicted == p.labels).sum()) for p in (fresh, stored))
            if n > max(1, tolerated * n_images):
                found.append(f"{name}, {split}: {n:,} of {n_images:,} images come out differently.")
            elif abs(hits - stored_hits) > max(2, GAIN * n_images):
                found.append(
                    f"{name}, {split}: {hits:,} hits of {n_images:,}, but {stored_hits:,} are stored."
                )
    if not problems:
        return not_checked("There are no stored predictions to compare with.", Level.CHECKPOINTS)
    summary = f"Fresh predictions agree with all {len(problems)} stored files."
    return from_problems(problems, Level.CHECKPOINTS, summary)
