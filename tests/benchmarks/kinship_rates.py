"""False alarms and detection by kinship, from the runs that `tests.benchmarks.kinships` trained.

    python -m tests.benchmarks.kinship_rates FOLDER [RUN...]

Copies are those of competent networks, because networks at chance are not compared.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from grader.checks import kinship
from grader.checks.kinship import LEAST_RELATED, MOST_RELATED, Pair, _pairs
from grader.evidence.gathered import Evidence, Thresholds, gather
from grader.submission.load import load
from grader.submission.predictions import Predictions
from grader.submission.record import SPLITS
from tests.benchmarks.kinships import evidence_of

JITTERS = (0.01, 0.05, 0.1, 0.2, 0.5)
CHANGED = 0.1
KINDS = ("siblings", "half-siblings", "cousins", "strangers")


def alarms(pairs: list[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Pairs with too little and too much in common."""
    little = [p for p in pairs if p.competent and p.at_most < LEAST_RELATED[p.kinship] * p.untied]
    much = [p for p in pairs if p.one_competent and p.robust_at_least > MOST_RELATED[p.kinship]]
    return little, much


def with_copy(
    evidence: Evidence, original: Any, kind: str, jitter: float | None, rng: np.random.Generator
) -> Evidence:
    """One run, and a copy of it with jittered losses, a tenth of them drawn anew, submitted as its kin.

    Without jitter, losses and answers are dealt out at random within each class instead.
    """
    changes = {
        "siblings": {"init": "pretrained"},
        "half-siblings": {"init": "random"},
        "cousins": {"seed": original.seed + 1000},
        "strangers": {"init": "random" if original.init == "pretrained" else "pretrained"},
    }
    same = {"init": changes[kind]["init"]} if "siblings" in kind else {}
    original = SimpleNamespace(**{**vars(original), **same})
    copy = SimpleNamespace(**{**vars(original), **changes[kind], "name": "copy"})
    predictions = {}
    for split in SPLITS:
        mine = evidence.predictions[original.name, split]
        nll = mine.nll.copy()
        if jitter is None:
            for label in np.unique(mine.labels):
                members = np.flatnonzero(mine.labels == label)
                nll[members] = rng.permutation(nll[members])
        else:
            nll *= np.exp(rng.normal(0, jitter, len(nll)))
            drawn = rng.random(len(nll)) < CHANGED
            nll[drawn] = rng.permutation(nll)[drawn]
        predictions[original.name, split] = mine
        predictions["copy", split] = Predictions(mine.sample_ids, mine.labels, mine.predicted, nll)
    results = SimpleNamespace(**{**vars(evidence.results), "runs": [original, copy]})
    return Evidence(cast("Any", results), predictions)


def pooled(folders: list[Path]) -> Iterator[tuple[str, Evidence]]:
    """The runs in these folders, by the images that they were evaluated on."""
    pools: dict[tuple[str, ...], tuple[list[Any], dict[tuple[str, str], Predictions]]] = {}
    names: dict[tuple[str, ...], str] = {}
    for folder in folders:
        evidence = gather(load(folder), Thresholds())
        for run in evidence.chosen:
            rows = [evidence.predictions.get((run.name, split)) for split in SPLITS]
            if None in rows:
                continue
            ids = rows[0].sample_ids + rows[1].sample_ids  # type: ignore[union-attr]
            runs, predictions = pools.setdefault(ids, ([], {}))
            names[ids] = f"{evidence.results.dataset_name}, {len(ids)} images"
            name = f"{folder.name}/{run.name}"
            head = evidence.results.has_head(run)
            plain = {"variant": run.variant, "seed": run.seed, "init": run.init, "head": head}
            runs.append(SimpleNamespace(name=name, best=1, n_classes=len(evidence.results.classes), **plain))
            for split, found in zip(SPLITS, rows, strict=True):
                predictions[name, split] = found  # type: ignore[assignment]
    for ids, (runs, predictions) in pools.items():
        results = SimpleNamespace(
            classes=range(runs[0].n_classes), runs=runs, has_head=lambda run: run.head, weights=None
        )
        yield names[ids], Evidence(cast("Any", results), predictions)


def honest(folder: Path, folders: list[Path]) -> Iterator[tuple[str, Evidence, list[Pair]]]:
    trained = [(path.stem, evidence_of(path)) for path in sorted(folder.glob("*.npz"))]
    for name, evidence in (*trained, *pooled(folders)):
        pairs = [
            pair
            for pair in _pairs(evidence)
            if (pair.first.variant, pair.first.seed) != (pair.second.variant, pair.second.seed)
        ]
        yield name, evidence, pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("runs", nargs="*", type=Path)
    options = parser.parse_args()
    kinship.MOST_RUNS = 1000
    rng = np.random.default_rng(0)
    by_kinship: dict[str, list[Pair]] = defaultdict(list)
    runs, caught = 0, defaultdict(list)
    for name, evidence, pairs in honest(options.folder, options.runs):
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
        size = f"{'over' if n_images > 400 else 'under'} 400 images"
        for run in evidence.chosen if pairs else ():
            for kind, jitter in product(KINDS, (None, *JITTERS)):
                found = list(_pairs(with_copy(evidence, run, kind, jitter, rng)))
                if found and (found[0].competent if jitter is None else found[0].one_competent):
                    little, much = alarms(found)
                    caught[size, kind, jitter].append(bool(little if jitter is None else much))
    print(f"\n{runs} runs\n")  # noqa: T201
    for kind, pairs in sorted(by_kinship.items()):
        little, much = alarms(pairs)
        competent = [p for p in pairs if p.competent]
        judged = [p for p in pairs if p.one_competent]
        print(  # noqa: T201
            f"{kind}: {len(pairs)} pairs, {len(judged)} with a competent network, {len(competent)} of two; "
            f"rho {min((p.correlation for p in competent), default=0):.3f} "
            f"(upper limit {min((p.at_most for p in competent), default=0):.3f}), "
            f"robust {max((p.robust for p in judged), default=0):.3f} (lower limit "
            f"{max((p.robust_at_least for p in judged), default=0):.3f}); alarms {len(little)}, {len(much)}"
        )
    for (size, kind, jitter), found in caught.items():
        how = "dealt at random" if jitter is None else f"copied with a jitter of {jitter:.0%}"
        print(f"{size}, {kind}, {how}: {sum(found)} of {len(found)} caught")  # noqa: T201


if __name__ == "__main__":
    main()
