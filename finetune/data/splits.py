"""Training, validation and test: stratified or official, never sharing a byte-identical image."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finetune.data.datasets import Dataset, Sample
from finetune.data.decode import reason
from finetune.errors import DataError, listed

NAMES = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """One split: samples sorted by id, and a SHA-256 over their ids, labels and contents."""

    samples: tuple[Sample, ...]
    class_counts: tuple[int, ...]
    fingerprint: str

    def labels(self) -> npt.NDArray[np.int64]:
        """Labels [n] in the order of the samples."""
        return np.array([s.label for s in self.samples], dtype=np.int64)


@dataclass(frozen=True)
class Splits:
    """The three splits, how they were made, what that cost, and the samples whose bytes could not be read."""

    train: Split
    val: Split
    test: Split
    kind: str
    excluded: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    unreadable: Mapping[str, str]

    @property
    def by_name(self) -> dict[str, Split]:
        """The splits by `train`, `val` and `test`."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def fingerprints(self) -> list[str]:
        """Those of the three splits."""
        return [split.fingerprint for split in self.by_name.values()]


def make_splits(dataset: Dataset, kind: str | None, subset: int | None, seed: int, workers: int) -> Splits:
    """Divide a data set.

    Args:
        dataset: what to divide.
        kind: `70-15-15`, `official`, or None: official for an image folder that comes divided, else 70-15-15.
        subset: keep at most this many images a class in each split.
        seed: decides which images go where and which ones a subset keeps.
        workers: threads that read the images.

    Raises:
        DataError: no official split, or a class too small to divide.
    """
    if kind is None:
        kind = "official" if dataset.divided and dataset.name == "imagefolder" else "70-15-15"
    if kind == "official" and not dataset.divided:
        raise DataError(
            f"--split official needs a data set that comes divided, but {dataset.name} does not; "
            "use --split 70-15-15, or sort an image folder into train/, val/ and test/."
        )
    hashes, unreadable = content_hashes(dataset.samples, workers)
    notes = list(dataset.notes)
    excluded = list(dataset.excluded)
    if kind == "official":
        parts = _official(dataset, hashes, seed, notes, excluded)
    else:
        parts = _stratified(dataset.samples, hashes, seed, _sizes_70_15_15)
    if subset is not None:
        parts = {name: _subset(part, hashes, subset, seed) for name, part in parts.items()}
    splits = {name: _split(dataset, name, part, hashes) for name, part in parts.items()}
    return Splits(**splits, kind=kind, excluded=tuple(excluded), notes=tuple(notes), unreadable=unreadable)


def content_hashes(samples: Sequence[Sample], workers: int) -> tuple[dict[str, str], dict[str, str]]:
    """SHA-256 of each sample's bytes by sample id; and why files could not be read, likewise.

    An unreadable file gets a digest of its own, so that all bad images can be told at once, later.
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


def _sizes_70_15_15(n: int) -> tuple[int, int, int]:
    """Sizes for a class of n: 70 % rounded down for training, the rest halved, the odd one to the test split.

    On Flowers-102 this gives 5,687 / 1,224 / 1,278, the sizes of the course homework this tool grew from.
    """
    train = min(n * 7 // 10, n - 2)
    val = (n - train) // 2
    return train, val, n - train - val


def _sizes_85_15(n: int) -> tuple[int, int, int]:
    """Sizes when only validation is cut out of training images."""
    val = max(1, round(n * 0.15))
    return n - val, val, 0


def _sizes_half(n: int) -> tuple[int, int, int]:
    """Sizes when a held-out folder serves as validation and as test."""
    return 0, n // 2, n - n // 2


def _stratified(
    samples: Sequence[Sample], hashes: dict[str, str], seed: int, sizes: Callable[[int], tuple[int, int, int]]
) -> dict[str, list[Sample]]:
    """Deal each class's images out in an order drawn from (seed, content): equal bytes stay together.

    A hash as the source of chance makes the division independent of library versions, file order and names.
    """
    copies: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        copies[hashes[sample.id]].append(sample)
    by_class: dict[int, list[str]] = defaultdict(list)
    for content, group in copies.items():
        by_class[group[0].label].append(content)
    parts: dict[str, list[Sample]] = {name: [] for name in NAMES}
    for contents in by_class.values():
        contents.sort(key=lambda content: _draw(seed, content))
        n_train, n_val, _ = sizes(sum(len(copies[c]) for c in contents))
        position = 0
        for content in contents:
            name = "train" if position < n_train else "val" if position < n_train + n_val else "test"
            parts[name] += copies[content]
            position += len(copies[content])
    return parts


def _draw(seed: int, content: str) -> str:
    return hashlib.sha256(f"{seed}:{content}".encode()).hexdigest()


def _official(
    dataset: Dataset, hashes: dict[str, str], seed: int, notes: list[str], excluded: list[tuple[str, str]]
) -> dict[str, list[Sample]]:
    """The data set's own division, with what is missing cut from what is there, and copies removed."""
    parts = {name: [s for s in dataset.samples if s.split == name] for name in NAMES}
    if not parts["val"] and not parts["test"]:
        parts = _stratified(parts["train"], hashes, seed, _sizes_70_15_15)
        notes.append(
            "There is no val/ and no test/: 15 % of train/ each, stratified by class, serve instead."
        )
    elif not parts["val"]:
        cut = _stratified(parts["train"], hashes, seed, _sizes_85_15)
        parts |= {"train": cut["train"], "val": cut["val"]}
        notes.append("There is no val/: 15 % of train/, stratified by class, serve instead.")
    elif not parts["test"]:
        parts |= {
            k: v for k, v in _stratified(parts["val"], hashes, seed, _sizes_half).items() if k != "train"
        }
        notes.append("There is no test/: half of val/, stratified by class, serves instead.")
    seen: dict[str, str] = {}
    for name in ("test", "val", "train"):  # what is held out stays whole; training gives way
        kept = [s for s in parts[name] if seen.get(hashes[s.id], name) == name]
        copies = [s for s in parts[name] if seen.get(hashes[s.id], name) != name]
        excluded += [(s.id, f"the same bytes as an image of the {seen[hashes[s.id]]} split") for s in copies]
        if copies:
            notes.append(f"Images left out of the {name} split, since copies are held out: {len(copies)}.")
        seen |= {hashes[s.id]: name for s in kept}
        parts[name] = kept
    return parts


def _subset(part: list[Sample], hashes: dict[str, str], most: int, seed: int) -> list[Sample]:
    """At most `most` samples of each class, drawn from (seed, content)."""
    taken: Counter[int] = Counter()
    kept = []
    for sample in sorted(part, key=lambda s: (_draw(seed, hashes[s.id]), s.id)):
        if taken[sample.label] < most:
            taken[sample.label] += 1
            kept.append(sample)
    return kept


def _split(dataset: Dataset, name: str, part: list[Sample], hashes: dict[str, str]) -> Split:
    samples = tuple(sorted(part, key=lambda s: s.id))
    counts = Counter(s.label for s in samples)
    empty = [c for label, c in enumerate(dataset.classes) if counts[label] == 0]
    if not samples or (empty and name == "train"):
        raise DataError(
            "Every class needs an image in the training split, and no split may be empty, but in the "
            f"{name} split these have none: {listed(empty)}; add images (three of a class can be divided) "
            "or remove the class."
        )
    lines = "".join(f"{s.id}\t{s.label}\t{hashes[s.id]}\n" for s in samples)
    return Split(
        samples=samples,
        class_counts=tuple(counts[label] for label in range(len(dataset.classes))),
        fingerprint=hashlib.sha256(lines.encode()).hexdigest(),
    )
