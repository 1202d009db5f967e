"""From a configuration to images that are ready for training: found, split, decoded or checked."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from finetune.config.experiment import ExperimentConfig
from finetune.data.cache import cache_limit, discard, entries, entry_name, evict, obtain
from finetune.data.datasets import SPLIT_NAMES, Dataset, load_dataset
from finetune.data.device import DeviceImages
from finetune.data.near_duplicates import found_line, kept_together, with_near_duplicates
from finetune.data.perceptual import Hashes
from finetune.data.sources import ImageSource, Selection
from finetune.data.splits import Split, Splits, content_hashes, make_splits, summary_lines, union
from finetune.data.store import StoredImages
from finetune.data.stream import StreamedImages, evaluation_stream, training_stream, visit
from finetune.errors import BadImagesError, ConfigError
from finetune.system.console import Reporter
from finetune.system.host import cores

CPU = torch.device("cpu")
GPU_FRACTION = 4
"""With `--store auto`, images are held on the GPU if they fit into a quarter of its free memory."""


@dataclass(frozen=True)
class Images:
    """Images and labels of the three splits.

    Args:
        train: training images.
        train_labels: [n_train] int64.
        held_out: images and labels [n] int64 of `val` and `test`; of `val` alone for trials that tune.
    """

    train: ImageSource
    train_labels: torch.Tensor
    held_out: dict[str, tuple[ImageSource, torch.Tensor]]


def labeled(splits: Splits, sources: dict[str, ImageSource]) -> Images:
    """The images of all splits that have a source, with their labels."""
    labels = {name: torch.from_numpy(splits.by_name[name].labels()) for name in sources}
    held_out = {name: (sources[name], labels[name]) for name in sources if name != "train"}
    return Images(sources["train"], labels["train"], held_out)


@dataclass(frozen=True)
class SplitDataset:
    """A data set with its splits.

    Args:
        dataset: what was split.
        splits: of its samples; the first seed's, if each seed has its own.
        hashed_at: when the files were about to be hashed, seconds since the epoch.
        by_seed: the splits of each seed, if each has its own.
        decoded: what is decoded together: each of the splits, or the images that any seed trains on and those
            that any seed holds out, so that no image is decoded again for each seed.
    """

    dataset: Dataset
    splits: Splits
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


def split_dataset(
    config: ExperimentConfig, workers: int | None = None, dataset: Dataset | None = None
) -> SplitDataset:
    """Find the images and split them.

    Args:
        config: the experiment.
        workers: threads; None takes one per core.
        dataset: the images, if they were found before.

    Raises:
        ConfigError: each seed is to have a split of its own, or near-duplicates are to stay together, but the
            data set's authors divided it.
        DataError: the images are not as the configuration says.
    """
    dataset, workers = dataset or load_dataset(config.dataset, Path(config.data_root)), workers or cores()
    hashed_at = time.time()
    hashed = content_hashes(dataset.samples, workers)
    kept: dict[str, str] = {}

    def of_seed(seed: int) -> Splits:
        split_seed = config.split_seed_of(seed)
        return make_splits(dataset, config.split, config.subset, split_seed, workers, hashed, kept)

    first = of_seed(config.seed)
    if config.near_duplicates == "together":
        kept |= kept_together(dataset, first.kind, hashed[0], hashed_at, workers)
        first = of_seed(config.seed)
    if not config.resplit:
        return SplitDataset(dataset, first, hashed_at, {}, first.by_name)
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
    decoded = {name: union(dataset, found, hashed[0]) for name, found in parts.items()}
    return SplitDataset(dataset, first, hashed_at, by_seed, decoded)


def prepare_images(
    config: ExperimentConfig,
    split: SplitDataset,
    reporter: Reporter,
    workers: int | None = None,
    device: torch.device = CPU,
    names: Collection[str] = SPLIT_NAMES,
) -> tuple[SplitDataset, dict[str, ImageSource], float]:
    """Decode every image once, or check that it can be decoded.

    Args:
        config: the experiment.
        split: its images.
        reporter: receives the classes, the size of each split, what is excluded and where the images are.
        workers: threads; None takes one per core.
        device: where the images are needed.
        names: of the splits that are needed.

    Returns:
        The data set less what was skipped, what was decoded (`SplitDataset.of_seed` makes splits of it), and
        the seconds it took.

    Raises:
        ConfigError: `--store device` without a GPU.
        BadImagesError: images that cannot be read and are not to be skipped.
        DataError: neither memory nor disk can hold them.
    """
    if config.store == "device" and device.type != "cuda":
        raise ConfigError(
            "--store device holds the images in GPU memory, but this job runs on "
            f"{'the CPU' if device.type == 'cpu' else device.type}; use --store memory or auto."
        )
    started, workers, size = time.perf_counter(), workers or cores(), config.recipe.image_size
    limit, cached_before = cache_limit(), {entry.name for entry in entries()}
    superseded: set[str] = set()
    while True:
        try:
            decoded, hashes, notes = _decoded(config, split, workers, reporter, names)
            break
        except BadImagesError as error:
            if config.on_bad_image == "fail" or len(error.reasons) == len(split.dataset.samples):
                raise
            superseded |= set(split.entry_names(size).values()) - cached_before
            split = split_dataset(config, workers, split.dataset.without(error.reasons))
    in_use = set(split.entry_names(size).values())
    for name in superseded - in_use:
        discard(name)
    evict(limit, in_use)
    if set(names) == set(SPLIT_NAMES):
        first, by_seed = with_near_duplicates(split.splits, split.by_seed, split.decoded, hashes)
        split = dataclasses.replace(split, splits=first, by_seed=by_seed)
    n_samples = {name: len(s.samples) for name, s in split.splits.by_name.items()}
    kind = f"{split.splits.kind}, another one for each seed" if split.by_seed else split.splits.kind
    for line in (*split.splits.notes, *notes):
        reporter.warn(line)
    if set(names) == set(SPLIT_NAMES):
        near = split.splits.near
        speak = reporter.warn if near and near.n_val + near.n_test else reporter.say
        speak(found_line(split.splits))
    for line in summary_lines(split.dataset.classes, n_samples, kind):
        reporter.say(line)
    sources, where = _placed(config, decoded, device)
    reporter.say(f"{sum(map(len, sources.values())):,} images {where}.")
    return split, sources, time.perf_counter() - started


def reopen_images(
    config: ExperimentConfig,
    split: SplitDataset,
    reporter: Reporter,
    workers: int,
    device: torch.device,
    names: Collection[str],
) -> dict[str, ImageSource]:
    """Images that `prepare_images` decoded and that were put aside: from the cache, else decoded again.

    Args:
        config: the experiment.
        split: as `prepare_images` returned it.
        reporter: receives the progress of decoding.
        workers: threads.
        device: where the images are needed.
        names: of their splits.

    Raises:
        BadImagesError: images that cannot be read any more.
        DataError: neither memory nor disk can hold them.
    """
    decoded, _, _ = _decoded(config, split, workers, reporter, names)
    return _placed(config, decoded, device)[0]


def _decoded(
    config: ExperimentConfig, split: SplitDataset, workers: int, reporter: Reporter, names: Collection[str]
) -> tuple[dict[str, StoredImages | StreamedImages], dict[str, Hashes], list[str]]:
    """The images of each split, their perceptual hashes, and a note for each reason why they are not cached.

    Raises:
        BadImagesError: all images of all splits that cannot be decoded.
    """
    size = config.recipe.image_size
    bad = dict(split.splits.unreadable)
    decoded: dict[str, StoredImages | StreamedImages] = {}
    hashes: dict[str, Hashes] = {}
    problems: dict[str, None] = {}  # a set in order
    mode = "auto" if config.store == "device" else config.store
    label = "checking images" if mode == "off" else "decoding"
    needed = {decoded_as(name) for name in names} if split.by_seed else set(names)
    wanted = {name: part for name, part in split.decoded.items() if name in needed}
    with reporter.bar(label, sum(len(s.samples) for s in wanted.values())) as advance:
        for name, part in wanted.items():
            kind = training_stream if name == "train" else evaluation_stream
            stream = partial(kind, part.samples, size, workers)
            try:
                if mode == "off":
                    decoded[name] = images = stream()
                    hashes[name] = visit(images, advance)
                else:
                    entry = split.entry_names(size)[name]
                    decoded[name], problem = stored = obtain(entry, stream, mode, split.hashed_at, advance)
                    hashes[name] = stored[0].hashes
                    problems |= {problem: None} if problem else {}
            except BadImagesError as error:
                bad |= error.reasons
    if bad:
        raise BadImagesError(bad)
    return decoded, hashes, [f"Decoded images not cached: {p}." for p in problems]


def _placed(
    config: ExperimentConfig, decoded: dict[str, StoredImages | StreamedImages], device: torch.device
) -> tuple[dict[str, ImageSource], str]:
    """The images where training takes them from, and where that is, in words."""
    stored = {name: s for name, s in decoded.items() if isinstance(s, StoredImages)}
    if not stored:
        return {**decoded}, "checked; they are decoded each time they are needed"
    n_bytes = sum(s.pixels.nbytes for s in stored.values())
    on_gpu = config.store == "device"
    if config.store == "auto" and device.type == "cuda":
        on_gpu = n_bytes * GPU_FRACTION < torch.cuda.mem_get_info(device)[0]
    megabytes = f"decoded: {n_bytes / 1e6:,.0f} MB"
    if on_gpu:
        return {name: DeviceImages(s, device) for name, s in stored.items()}, f"{megabytes} on the GPU"
    where = "in memory" if all(s.in_memory for s in stored.values()) else "in files"
    return {**stored}, f"{megabytes} {where}"
