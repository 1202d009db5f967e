"""The report's section on near-duplicates: pairs to look at, and test accuracy without them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from finetune.report.gallery import Photo, Thumbnails
from finetune.report.judged import JudgedRun
from finetune.report.settings import SPLITS
from grader.checks.near_duplicates import Accuracy, accuracy_without
from grader.submission.near_duplicates import Pair

MOST_SHOWN = 12
"""Pairs with pictures: the closest of those with a test image, then of those with a validation image."""


@dataclass(frozen=True)
class ShownPair:
    """Two images that look alike.

    Args:
        pair: as recorded.
        photos: the held-out image and the other one, with thumbnails where these are at hand.
        splits: in words.
    """

    pair: Pair
    photos: tuple[Photo, Photo]
    splits: tuple[str, str]


def near_values(run: JudgedRun) -> dict[str, Any]:
    """What the section shows; `near` is None where no images were compared."""
    near = run.results.near_duplicates.get(run.results.seeds[0])
    if near is None:
        return {"near": None}
    thumbnails = Thumbnails(run)
    without: dict[str, Accuracy] = accuracy_without(run.evidence) if near.n_test else {}
    return {
        "near": near,
        "near_pairs": list(_shown(near.pairs[:MOST_SHOWN], thumbnails)),
        "near_problem": thumbnails.problem,
        "near_accuracy": [(row, without[row.name]) for row in run.rows if row.name in without],
        "kept_together": run.document["config"].get("near_duplicates") == "together",
    }


def _shown(pairs: tuple[Pair, ...], thumbnails: Thumbnails) -> Iterator[ShownPair]:
    for pair in pairs:
        photos = thumbnails.of(Photo(name, 0, ()) for name in (pair.sample_id, pair.other_id))
        splits = SPLITS[pair.split], SPLITS[pair.other_split]
        yield ShownPair(pair, (photos[0], photos[1]), splits)
