"""Near-duplicates: the same picture in two splits, though its files differ."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from finetune.data.cache import entry_name, obtain
from finetune.data.datasets import Dataset
from finetune.data.perceptual import MAX_DISTANCE, SIDE, Hashes, clusters, comparable, nearest
from finetune.data.stream import unstored_stream
from finetune.errors import BadImagesError, ConfigError, counted
from finetune.system.console import Reporter
from grader.submission.near_duplicates import NearDuplicates, Pair

if TYPE_CHECKING:
    from finetune.data.splits import Split, Splits

MOST_PAIRS = 2000
"""Pairs that the results of a job list, of all its seeds together: a seventh of what the grader reads."""

BEFORE = {"test": ("train", "val"), "val": ("train",)}
"""The splits that an image should not be known from: validation chooses the epoch that is tested."""


def tell(splits: Splits, reporter: Reporter) -> None:
    """Warn of near-duplicates across three splits, or say that there are none."""
    has_any = splits.near is not None and splits.near.n_val + splits.near.n_test > 0
    (reporter.warn if has_any else reporter.say)(found_line(splits))


def found_line(splits: Splits) -> str:
    """What was found across three splits, in a sentence."""
    near = splits.near
    if near is None:
        return (
            f"Near-duplicates: not looked for, because the images are smaller than {SIDE} pixels or uniform; "
            "byte-identical images are never in two splits."
        )
    if not near.n_val + near.n_test:
        return f"Near-duplicates: none across the splits among {counted(near.n_compared, 'image')}."
    return (
        f"Near-duplicates: {counted(near.n_test, 'test image')} and "
        f"{counted(near.n_val, 'validation image')} look like resized, re-encoded or mirrored copies of "
        "images in another split."
    )


def with_near_duplicates(
    first: Splits, by_seed: Mapping[int, Splits], decoded: Mapping[str, Split], hashes: Mapping[str, Hashes]
) -> tuple[Splits, dict[int, Splits]]:
    """The same splits with the near-duplicates across them.

    Args:
        first: of the first seed.
        by_seed: of each seed, if each has its own.
        decoded: what was decoded together.
        hashes: of its images.
    """
    samples = chain.from_iterable(part.samples for part in decoded.values())
    row = {sample.id: index for index, sample in enumerate(samples)}
    every = np.concatenate([hashes[name] for name in decoded])
    at_most = MOST_PAIRS // max(1, len(by_seed))

    def of(splits: Splits) -> Splits:
        own = {name: every[[row[s.id] for s in part.samples]] for name, part in splits.by_name.items()}
        return replace(splits, near=across_splits(splits, own, at_most))

    found = {seed: of(splits) for seed, splits in by_seed.items()}
    return next(iter(found.values())) if found else of(first), found


def across_splits(
    splits: Splits, hashes: Mapping[str, Hashes], at_most: int = MOST_PAIRS
) -> NearDuplicates | None:
    """Near-duplicates of held-out images in splits that training or choosing has seen.

    Args:
        splits: the splits.
        hashes: of each split's images, in its order.
        at_most: pairs to list.

    Returns:
        What was found; None if no two images can be compared.
    """
    usable = np.concatenate([comparable(found) for found in hashes.values()])
    if usable.sum() < 2:
        return None
    pairs: list[Pair] = []
    for name, before in BEFORE.items():
        others = [(known, sample.id) for known in before for sample in splits.by_name[known].samples]
        found = nearest(hashes[name], np.concatenate([hashes[known] for known in before]))
        samples = splits.by_name[name].samples
        pairs += [
            Pair(sample.id, name, others[index][1], others[index][0], int(distance), bool(mirrored))
            for sample, index, distance, mirrored in zip(samples, *found, strict=True)
            if distance <= MAX_DISTANCE
        ]
    # Should there be too many to list, those of test images come first: they change what is reported.
    pairs.sort(key=lambda pair: (pair.split != "test", pair.distance, pair.sample_id))
    n_test = sum(pair.split == "test" for pair in pairs)
    n_compared = int(usable.sum())
    return NearDuplicates(
        n_compared, len(usable) - n_compared, len(pairs) - n_test, n_test, tuple(pairs[:at_most])
    )


def kept_together(
    dataset: Dataset, kind: str, contents: Mapping[str, str], hashed_at: float, workers: int
) -> dict[str, str]:
    """What stays together in one split, by sample id: the smallest content hash of its near-duplicates.

    An image that cannot be read stays alone. Splits decide how images are decoded, so these perceptual hashes
    have an entry of their own in the cache.

    Args:
        dataset: all images.
        kind: of the split.
        contents: SHA-256 of each sample's content by id.
        hashed_at: when that was computed, seconds since the epoch.
        workers: threads that decode.

    Raises:
        ConfigError: the data set's authors made the split.
    """
    if kind == "official":
        raise ConfigError(
            "--near-duplicates together decides which images share a split, so finetune must make the split, "
            "but these images have the official one; add --split 70-15-15, or leave --near-duplicates out to "
            "have them reported."
        )
    samples = dataset.samples
    lines = "".join(f"{sample.id}\t{contents[sample.id]}\n" for sample in samples)
    name = entry_name(dataset.name, "hashes", 0, hashlib.sha256(lines.encode()).hexdigest())
    try:
        stored, _ = obtain(
            name, lambda: unstored_stream(samples, workers), "memory", hashed_at, lambda _: None
        )
    except BadImagesError as error:
        if len(error.reasons) == len(samples):
            return {}
        return kept_together(dataset.without(error.reasons), kind, contents, hashed_at, workers)
    names: dict[int, str] = {}
    labels = clusters(stored.hashes).tolist()
    for sample, label in zip(samples, labels, strict=True):
        names[label] = min(names.get(label, contents[sample.id]), contents[sample.id])
    return {sample.id: names[label] for sample, label in zip(samples, labels, strict=True)}
