"""Training, validation and test split: stratified or predefined, never sharing a byte-identical image."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finetune.config.split import STANDARD, shares
from finetune.data.datasets import SPLIT_NAMES, Dataset, Sample
from finetune.data.decode import reason
from finetune.errors import DataError, counted, listed
from grader.submission.near_duplicates import NearDuplicates


@dataclass(frozen=True)
class Split:
    """One split: samples sorted by id, images per class, and a SHA-256 over ids, labels and contents."""

    samples: tuple[Sample, ...]
    class_counts: tuple[int, ...]
    fingerprint: str

    def labels(self) -> npt.NDArray[np.int64]:
        """Labels [n] in the order of the samples."""
        return np.array([s.label for s in self.samples], dtype=np.int64)


@dataclass(frozen=True)
class Splits:
    """The three splits and how they were made.

    Args:
        train: for training.
        val: for choosing the epoch.
        test: for the final measurement.
        kind: `official`, or shares such as `70-15-15`.
        excluded: (id or path, reason) for each file that is in no split.
        notes: sentences for the user about what was excluded or chosen.
        unreadable: why files could not be read, by sample id; they are still in their splits.
        near: near-duplicates across the splits; None before they are sought, and if no two images can be
            compared.
    """

    train: Split
    val: Split
    test: Split
    kind: str
    excluded: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    unreadable: Mapping[str, str]
    near: NearDuplicates | None = None

    @property
    def by_name(self) -> dict[str, Split]:
        """The splits by `train`, `val` and `test`."""
        return {"train": self.train, "val": self.val, "test": self.test}


def summary_lines(classes: Sequence[str], n_samples: Mapping[str, int], kind: str) -> list[str]:
    """What is printed before training: the classes, and the size of each split.

    Args:
        classes: class names.
        n_samples: images by `train`, `val` and `test`.
        kind: `official`, or shares such as `70-15-15`.
    """
    train, val, test = (n_samples[name] for name in SPLIT_NAMES)
    return [
        f"{len(classes):,} classes: {listed(list(classes))}",
        f"Splits: {train:,} train, {val:,} validation, {test:,} test images ({kind})",
    ]


Sizes = Callable[[int], tuple[int, int, int]]
"""From the number of images of a class to those of each of the three splits."""

Hashes = tuple[dict[str, str], dict[str, str]]
"""What `content_hashes` returns."""


def make_splits(
    dataset: Dataset,
    kind: str | None,
    subset: int | None,
    seed: int,
    workers: int,
    hashed: Hashes | None = None,
    together: Mapping[str, str] | None = None,
) -> Splits:
    """Split a data set.

    Args:
        dataset: the images.
        kind: `official`, shares such as `70-15-15`, or None: official for an image folder with split folders,
            else 70-15-15.
        subset: use at most this many images per class in each split.
        seed: decides which images go into which split, and which ones a subset contains.
        workers: threads that read the images.
        hashed: their hashes, if they are known.
        together: for each sample id, the name of the group that stays in one split; None or empty keeps
            byte-identical images together.

    Raises:
        DataError: no predefined splits, or a class with too few images.
    """
    if kind is None:
        kind = "official" if dataset.has_splits and dataset.name == "imagefolder" else STANDARD
    if kind == "official" and not dataset.has_splits:
        raise DataError(
            f"--split official requires a data set with predefined splits, but {dataset.name} has none; "
            f"use --split {STANDARD}, or sort an image folder into train/, val/ and test/."
        )
    hashes, unreadable = hashed or content_hashes(dataset.samples, workers)
    notes = [*dataset.notes, *_contradictions(dataset.samples, hashes)]
    excluded = list(dataset.excluded)
    if kind == "official":
        samples = _official(dataset, hashes, seed, notes, excluded)
    else:
        samples = _stratified(dataset.samples, {**hashes, **(together or {})}, seed, sizes_by_shares(kind))
    if subset is not None:
        samples = {name: _subset(samples[name], hashes, subset, seed) for name in SPLIT_NAMES}
    splits = {name: _split(dataset, name, samples[name], hashes) for name in SPLIT_NAMES}
    return Splits(
        splits["train"], splits["val"], splits["test"], kind, tuple(excluded), tuple(notes), unreadable
    )


def _contradictions(samples: Sequence[Sample], hashes: Mapping[str, str]) -> Iterator[str]:
    """A sentence if byte-identical images have different labels."""
    labels: dict[str, set[int]] = {}
    for sample in samples:
        labels.setdefault(hashes[sample.id], set()).add(sample.label)
    n = sum(len(found) > 1 for found in labels.values())
    if n:
        what = "1 image is" if n == 1 else f"{n:,} images are"
        yield f"{what} in several classes, byte for byte; at most one of these labels can be right."


def union(dataset: Dataset, splits: Sequence[Split], hashes: dict[str, str]) -> Split:
    """The images that are in any of the splits."""
    return _split(
        dataset, "union", list({s.id: s for split in splits for s in split.samples}.values()), hashes
    )


def content_hashes(samples: Sequence[Sample], workers: int) -> Hashes:
    """SHA-256 of each sample's bytes by sample id, and why files could not be read, also by id.

    An unreadable file gets the digest of its id, so that all bad images can be reported together, later.
    """
    unreadable: dict[str, str] = {}

    def digest(sample: Sample) -> str:
        try:
            return hashlib.sha256(sample.read()).hexdigest()
        except OSError as error:
            unreadable[sample.id] = reason(error)
            return hashlib.sha256(sample.id.encode()).hexdigest()

    with ThreadPoolExecutor(workers) as pool:
        digests = pool.map(digest, samples)
        return {s.id: d for s, d in zip(samples, digests, strict=True)}, unreadable


def sizes_by_shares(kind: str) -> Sizes:
    """Split sizes for a class of n by shares in percent.

    Training gets its share rounded down. The rest is divided as the other two shares are to one another,
    validation's part rounded down. No part is empty if n is at least 3.

    On Flowers-102, 70-15-15 gives 5,687 / 1,224 / 1,278, the sizes of the course assignment this tool grew
    from.

    Raises:
        ConfigError: the kind is not shares.
    """
    share, of_val, of_test = shares(kind)

    def sizes(n: int) -> tuple[int, int, int]:
        train = min(max(1, n * share // 100), n - 2)
        rest = n - train
        val = min(max(1, rest * of_val // (of_val + of_test)), rest - 1)
        return train, val, rest - val

    return sizes


def _sizes_85_15(n: int) -> tuple[int, int, int]:
    """Split sizes if only validation is taken from the training images."""
    val = max(1, round(n * 0.15))
    return n - val, val, 0


def _sizes_half(n: int) -> tuple[int, int, int]:
    """Split sizes if a held-out folder is used for both validation and test."""
    return 0, n // 2, n - n // 2


def _stratified(
    samples: Sequence[Sample], hashes: dict[str, str], seed: int, sizes: Sizes
) -> dict[str, list[Sample]]:
    """Split each class in an order that depends on (seed, content) alone; identical images stay together.

    Hashes instead of a random generator make the splits independent of library versions, file order and
    names.
    """
    copies: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        copies[hashes[sample.id]].append(sample)
    by_class: dict[int, list[str]] = defaultdict(list)
    for content, group in copies.items():
        by_class[group[0].label].append(content)
    splits: dict[str, list[Sample]] = {name: [] for name in SPLIT_NAMES}
    for contents in by_class.values():
        contents.sort(key=lambda content: _random_key(seed, content))
        n_train, n_val, _ = sizes(sum(len(copies[c]) for c in contents))
        position = 0
        for content in contents:
            name = "train" if position < n_train else "val" if position < n_train + n_val else "test"
            splits[name] += copies[content]
            position += len(copies[content])
    return splits


def _random_key(seed: int, content: str) -> str:
    return hashlib.sha256(f"{seed}:{content}".encode()).hexdigest()


def _official(
    dataset: Dataset, hashes: dict[str, str], seed: int, notes: list[str], excluded: list[tuple[str, str]]
) -> dict[str, list[Sample]]:
    """The predefined splits; missing ones are taken from the others, and copies across splits are removed."""
    splits = {name: [s for s in dataset.samples if s.split == name] for name in SPLIT_NAMES}
    if not splits["val"] and not splits["test"]:
        splits = _stratified(splits["train"], hashes, seed, sizes_by_shares(STANDARD))
        notes.append(
            "No validation or test folder: using 15% of the training images for each, stratified by class."
        )
    elif not splits["val"]:
        splits |= _stratified(splits["train"], hashes, seed, _sizes_85_15) | {"test": splits["test"]}
        notes.append("No validation folder: using 15% of the training images, stratified by class.")
    elif not splits["test"]:
        splits |= _stratified(splits["val"], hashes, seed, _sizes_half) | {"train": splits["train"]}
        notes.append("No test folder: using half of the validation images, stratified by class.")
    seen: dict[str, str] = {}
    for name in ("test", "val", "train"):  # the held-out splits stay complete
        copies = [s for s in splits[name] if seen.get(hashes[s.id], name) != name]
        excluded += [(s.id, f"identical to an image in the {seen[hashes[s.id]]} split") for s in copies]
        if copies:
            images = counted(len(copies), "image")
            notes.append(f"{images} excluded from the {name} split: identical to held-out images.")
        splits[name] = [s for s in splits[name] if seen.get(hashes[s.id], name) == name]
        seen |= {hashes[s.id]: name for s in splits[name]}
    return splits


def _subset(samples: list[Sample], hashes: dict[str, str], most: int, seed: int) -> list[Sample]:
    """At most `most` samples of each class, chosen by (seed, content)."""
    n_chosen: Counter[int] = Counter()
    chosen = []
    for sample in sorted(samples, key=lambda s: (_random_key(seed, hashes[s.id]), s.id)):
        if n_chosen[sample.label] < most:
            n_chosen[sample.label] += 1
            chosen.append(sample)
    return chosen


def _split(dataset: Dataset, name: str, samples: list[Sample], hashes: dict[str, str]) -> Split:
    samples = sorted(samples, key=lambda s: s.id)
    counts = Counter(s.label for s in samples)
    empty = [c for label, c in enumerate(dataset.classes) if counts[label] == 0]
    if not samples or (empty and name == "train"):
        raise DataError(
            "Every class needs an image in the training split, and no split may be empty, but the "
            f"{name} split has none of: {listed(empty)}; add images (at least three per class; copies of "
            "validation and test images are left out of training) or remove the class."
        )
    lines = "".join(f"{s.id}\t{s.label}\t{hashes[s.id]}\n" for s in samples)
    return Split(
        samples=tuple(samples),
        class_counts=tuple(counts[label] for label in range(len(dataset.classes))),
        fingerprint=hashlib.sha256(lines.encode()).hexdigest(),
    )
