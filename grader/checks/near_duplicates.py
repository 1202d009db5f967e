"""Level 2: what test accuracy is without images that look like copies of images seen before."""

from collections import defaultdict
from dataclasses import dataclass
from statistics import fmean

from grader.errors import listed
from grader.evidence.gathered import Evidence
from grader.findings import NO_PREDICTIONS, Finding, Level, Status, counted, in_points, not_checked
from grader.submission.record import SPLITS


@dataclass(frozen=True)
class Accuracy:
    """Test accuracy of a variant, mean over its runs, 0 to 1.

    Attributes:
        whole: On all test images.
        rest: Without those that have a near-duplicate in training or validation.
    """

    whole: float
    rest: float

    @property
    def change(self) -> float:
        """What leaving them out changes."""
        return self.rest - self.whole


def accuracy_without(evidence: Evidence) -> dict[str, Accuracy]:
    """The test accuracy of each variant with and without near-duplicates; empty if it cannot be told."""
    import numpy as np

    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for run, rows in evidence.rows("test"):
        near = evidence.results.near_duplicates.get(run.seed)
        if near is None or len(near.ids("test")) != near.n_test:
            return {}  # not compared, or more than the file lists
        kept = ~np.isin(np.array(rows.sample_ids), sorted(near.ids("test")))
        if not kept.any():
            return {}
        found[run.variant].append((float(rows.correct.mean()), float(rows.correct[kept].mean())))
    return {
        variant: Accuracy(fmean(whole for whole, _ in runs), fmean(rest for _, rest in runs))
        for variant, runs in found.items()
    }


def near_duplicates_do_not_decide(evidence: Evidence) -> Finding:
    """Test accuracy does not depend on near-duplicates of images that were seen before the test.

    Rule: the results file lists test images that look like resized, re-encoded or mirrored copies of a
    training or validation image. Fails if it lists an image that is not in the predictions of its split, or
    every test image, or if leaving them out changes the test accuracy of a variant (mean over seeds) by more
    than the policy's margin; otherwise holds. Whether the list is complete is not checked.

    Source: B. Barz and J. Denzler, Do We Train on Test Data? Purging CIFAR of Near-Duplicates, Journal of
    Imaging 6 (2020) 41.
    """
    results = evidence.results
    if not results.near_duplicates:
        return not_checked("No images were compared: too small, too uniform, or not looked for.", Level.FILE)
    unknown = _unknown(evidence)
    if unknown:
        return Finding(
            Status.FAILS, Level.PREDICTIONS, unknown[0], tuple(listed(unknown)), judged=len(unknown)
        )
    n_test = max(near.n_test for near in results.near_duplicates.values())
    if not n_test:
        n = counted(max(near.n_compared for near in results.near_duplicates.values()), "image")
        summary = f"No test image is listed as a near-duplicate; {n} were compared."
        return Finding(Status.HOLDS, Level.FILE, summary, numbers={"n_test": 0}, held=1, judged=1)
    numbers = {"n_test": n_test}
    sizes = {seed: results.splits_of(seed)["test"].n_samples for seed in results.near_duplicates}
    if any(near.n_test >= sizes[seed] for seed, near in results.near_duplicates.items()):
        summary = "Every test image looks like a copy of a training or validation image."
        return Finding(Status.FAILS, Level.FILE, summary, numbers=numbers, judged=1)
    found = accuracy_without(evidence)
    if not found:
        missing = NO_PREDICTIONS if not evidence.predictions else "Not all near-duplicates are listed."
        return not_checked(missing, Level.PREDICTIONS)
    shown = ", ".join(f"{name} {a.rest:.1%} ({in_points(a.change)} points)" for name, a in found.items())
    images = counted(n_test, "test image") + (
        " that looks like a copy" if n_test == 1 else " that look like copies"
    )
    within = [name for name, a in found.items() if abs(a.change) <= evidence.thresholds.margin]
    return Finding(
        Status.HOLDS if len(within) == len(found) else Status.FAILS,
        Level.PREDICTIONS,
        f"Without {images}: {shown}.",
        numbers=numbers | {f"{name}_accuracy": a.rest for name, a in found.items()},
        held=len(within),
        judged=len(found),
    )


def _unknown(evidence: Evidence) -> list[str]:
    """Listed images that are not in the predictions of their split, a sentence each."""
    found: dict[tuple[int, str, str], None] = {}
    for split in SPLITS:
        for run, rows in evidence.rows(split):
            near = evidence.results.near_duplicates.get(run.seed)
            missing = near.ids(split) - set(rows.sample_ids) if near else ()
            found |= dict.fromkeys((run.seed, split, name) for name in missing)
    return [
        f"{name!r} is listed as a near-duplicate in {split}, but seed {seed} has no such {split} prediction."
        for seed, split, name in sorted(found)
    ]
