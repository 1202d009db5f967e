"""False alarms and detection by kinship, from the runs that `tests.benchmarks.kinships` trained.

python -m tests.benchmarks.kinship_rates FOLDER

"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from grader.checks.kinship import LEAST_RELATED, MOST_RELATED, Pair, _pairs
from grader.evidence import Evidence
from grader.predictions import Predictions
from grader.record import SPLITS
from tests.benchmarks.kinships import evidence_of

JITTERS = (0.01, 0.05, 0.1, 0.2, 0.5)
CHANGED = 0.1


def alarms(pairs: list[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Pairs with too little and too much in common."""
    little = [p for p in pairs if p.competent and p.at_most < LEAST_RELATED[p.kinship]]
    return little, [p for p in pairs if p.robust_at_least > MOST_RELATED[p.kinship]]


def with_copy(evidence: Evidence, original: Any, jitter: float, rng: np.random.Generator) -> Evidence:
    """One run, and a copy of it under its sibling's name with jittered losses, a tenth of them drawn anew.

    A jitter below 0 deals the losses out at random within each class and among right and wrong answers.
    """
    copy = SimpleNamespace(**{**vars(original), "name": "copy"})
    predictions = {}
    for split in SPLITS:
        mine = evidence.predictions[original.name, split]
        nll = mine.nll.copy()
        if jitter < 0:
            for label in np.unique(mine.labels):
                for right in (False, True):
                    members = np.flatnonzero((mine.labels == label) & (mine.correct == right))
                    nll[members] = rng.permutation(nll[members])
            dealt = rng.permutation  # answers, too: a dealt loss goes with a dealt answer
            for label in np.unique(mine.labels):
                members = np.flatnonzero(mine.labels == label)
                nll[members] = dealt(nll[members])
        else:
            nll *= np.exp(rng.normal(0, jitter, len(nll)))
            drawn = rng.random(len(nll)) < CHANGED
            nll[drawn] = rng.permutation(nll)[drawn]
        predictions[original.name, split] = mine
        predictions["copy", split] = Predictions(mine.sample_ids, mine.labels, mine.predicted, nll)
    results = SimpleNamespace(**{**vars(evidence.results), "runs": [original, copy]})
    return Evidence(cast("Any", results), predictions)


def honest(paths: list[Path]) -> Iterator[tuple[str, Evidence, list[Pair]]]:
    for path in paths:
        evidence = evidence_of(path)
        yield path.stem, evidence, list(_pairs(evidence))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    by_kinship: dict[str, list[Pair]] = defaultdict(list)
    runs, caught = 0, defaultdict(list)
    for name, evidence, pairs in honest(sorted(options.folder.glob("*.npz"))):
        runs += len(evidence.chosen)
        little, much = alarms(pairs)
        competent = [p.correlation for p in pairs if p.competent]
        n_images = pairs[0].degrees if pairs else 0
        print(  # noqa: T201
            f"{name}: {len(evidence.chosen)} runs, {n_images} degrees, {len(pairs)} pairs, "
            f"{len(competent)} competent; rho {min(competent, default=0):.2f} to "
            f"{max(competent, default=0):.2f}, "
            f"robust to {max((p.robust for p in pairs), default=0):.3f}; alarms {len(little)}, {len(much)} "
            f"{sorted({(p.kinship, p.first.variant, p.second.variant) for p in little + much})[:6]}"
        )
        for pair in pairs:
            by_kinship[pair.kinship].append(pair)
        for run in evidence.chosen if pairs else ():
            for jitter in (-1.0, *JITTERS):
                found = list(_pairs(with_copy(evidence, run, jitter, rng)))
                if found and (found[0].competent or jitter >= 0):
                    little, much = alarms(found)
                    caught[jitter].append(bool(little if jitter < 0 else much))
    print(f"\n{runs} runs\n")  # noqa: T201
    for kinship, pairs in sorted(by_kinship.items()):
        little, much = alarms(pairs)
        competent = [p for p in pairs if p.competent]
        print(  # noqa: T201
            f"{kinship}: {len(pairs)} pairs, {len(competent)} competent; "
            f"rho {min((p.correlation for p in competent), default=0):.3f} "
            f"(upper limit {min((p.at_most for p in competent), default=0):.3f}), "
            f"robust {max(p.robust for p in pairs):.4f} (lower limit "
            f"{max(p.robust_at_least for p in pairs):.4f}); alarms {len(little)}, {len(much)}"
        )
    for jitter, found in sorted(caught.items()):
        print(f"{'dealt' if jitter < 0 else f'jitter {jitter}'}: {sum(found)} of {len(found)} caught")  # noqa: T201


if __name__ == "__main__":
    main()
