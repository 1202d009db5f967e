"""A data set with its splits: one division for all seeds, or one for each."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.config.experiment import ExperimentConfig
from finetune.data.cache import entry_name
from finetune.data.datasets import Dataset, load_dataset
from finetune.data.near_duplicates import kept_together
from finetune.data.sources import ImageSource, Selection
from finetune.data.splits import Hashes, Split, Splits, content_hashes, make_splits, union
from finetune.errors import ConfigError
from finetune.system.host import cores


@dataclass(frozen=True)
class SplitDataset:
    """A data set with its splits.

    Args:
        dataset: what was split.
        splits: of its samples; the first seed's, if each seed has its own.
        hashes: of the content of its files, and which could not be read.
        hashed_at: when the files were about to be hashed, seconds since the epoch.
        by_seed: the splits of each seed, if each has its own.
        decoded: what is decoded together: each of the splits, or the images that any seed trains on and those
            that any seed holds out, so that no image is decoded again for each seed.
    """

    dataset: Dataset
    splits: Splits
    hashes: Hashes
    hashed_at: float
    by_seed: Mapping[int, Splits]
    decoded: Mapping[str, Split]

    def entry_names(self, image_size: int) -> dict[str, str]:
        """Names of the cache entries by what is decoded together, for a size of the network's input."""
        return {
            name: entry_name(self.dataset.name, name, image_size, part.fingerprint)
            for name, part in self.decoded.items()
        }

    def of_seed(
        self, seed: int, sources: Mapping[str, ImageSource], workers: int
    ) -> tuple[Splits, dict[str, ImageSource]]:
        """The splits of a seed and their images; the first seed's for one without splits of its own.

        Args:
            seed: of a run.
            sources: what `prepare_images` returned.
            workers: threads that copy images into batches.
        """
        if not self.by_seed:
            return self.splits, {**sources}
        splits = self.by_seed.get(seed, self.splits)
        selected: dict[str, ImageSource] = {}
        for name, part in splits.by_name.items():
            form = decoded_as(name)
            if form in sources:
                rows = {sample.id: row for row, sample in enumerate(self.decoded[form].samples)}
                index = np.array([rows[sample.id] for sample in part.samples], dtype=np.int64)
                selected[name] = Selection(sources[form], index, workers)
        return splits, selected


def decoded_as(split: str) -> str:
    """The key in `SplitDataset.decoded` for a split where each seed has its own."""
    return "train" if split == "train" else "heldout"


def split_dataset(config: ExperimentConfig, workers: int | None = None) -> SplitDataset:
    """Find the images and split them.

    Args:
        config: the experiment.
        workers: threads; None takes one per core.

    Raises:
        ConfigError: each seed is to have a split of its own, or near-duplicates are to stay together, but the
            data set's authors divided it.
        DataError: the images are not as the configuration says.
    """
    dataset, workers = load_dataset(config.dataset, Path(config.data_root)), workers or cores()
    hashed_at = time.time()
    return _divided(config, dataset, content_hashes(dataset.samples, workers), hashed_at, workers)


def without(
    split: SplitDataset, unreadable: Mapping[str, str], config: ExperimentConfig, workers: int
) -> SplitDataset:
    """The same data set without unreadable images, given as reasons by sample id, split anew.

    Raises:
        DataError: too few images are left.
    """
    hashes, known = split.hashes
    left = hashes, {name: reason for name, reason in known.items() if name not in unreadable}
    return _divided(config, split.dataset.without(unreadable), left, split.hashed_at, workers)


def _divided(
    config: ExperimentConfig, dataset: Dataset, hashes: Hashes, hashed_at: float, workers: int
) -> SplitDataset:
    kept: dict[str, str] = {}

    def of_seed(seed: int) -> Splits:
        split_seed = config.split_seed_of(seed)
        return make_splits(dataset, config.split, config.subset, split_seed, workers, hashes, kept)

    first = of_seed(config.seed)
    if config.near_duplicates == "together":
        kept |= kept_together(dataset, first.kind, hashes[0], hashed_at, workers)
        first = of_seed(config.seed)
    if not config.resplit:
        return SplitDataset(dataset, first, hashes, hashed_at, {}, first.by_name)
    if first.kind == "official":
        raise ConfigError(
            "--resplit draws a new split for each seed, so the split cannot be official, but it is; add "
            "--split 70-15-15, or leave --resplit out."
        )
    by_seed = {config.seed: first} | {seed: of_seed(seed) for seed in config.seed_list[1:]}
    parts: dict[str, list[Split]] = {"train": [], "heldout": []}
    for splits in by_seed.values():
        for name, part in splits.by_name.items():
            parts[decoded_as(name)].append(part)
    decoded = {name: union(dataset, found, hashes[0]) for name, found in parts.items()}
    return SplitDataset(dataset, first, hashes, hashed_at, by_seed, decoded)
