"""From a configuration to images that are ready: found, divided, decoded once or whenever they are needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from finetune.config.experiment import ExperimentConfig
from finetune.data.cache import cache_limit, discard, entries, entry_name, evict, obtain
from finetune.data.datasets import SPLIT_NAMES, Dataset, load_dataset
from finetune.data.device import DeviceImages
from finetune.data.sources import ImageSource
from finetune.data.splits import Splits, make_splits, summary_lines
from finetune.data.store import StoredImages
from finetune.data.stream import StreamedImages, evaluation_stream, training_stream, visit
from finetune.errors import BadImagesError, ConfigError
from finetune.system.console import Reporter
from finetune.system.host import cores

CPU = torch.device("cpu")
SHARE_OF_GPU = 4
"""With `--store auto`, images go to the GPU if they take at most one part in so many of its free memory."""


@dataclass(frozen=True)
class Images:
    """Images and labels of the three splits.

    Args:
        train: training images.
        train_labels: [n_train] int64.
        held_out: images and labels [n] int64 of `val` and `test`.
    """

    train: ImageSource
    train_labels: torch.Tensor
    held_out: dict[str, tuple[ImageSource, torch.Tensor]]


@dataclass(frozen=True)
class Divided:
    """A data set and its splits, and when their making began, seconds since the epoch."""

    dataset: Dataset
    splits: Splits
    since: float


def divide(config: ExperimentConfig, workers: int | None = None) -> Divided:
    """Find the images and divide them.

    Args:
        config: the experiment.
        workers: threads; None takes one a core.

    Raises:
        DataError: they are not as the configuration says.
    """
    return _divided(config, load_dataset(config.dataset, Path(config.data_root)), workers or cores())


def _divided(config: ExperimentConfig, dataset: Dataset, workers: int) -> Divided:
    since = time.time()
    return Divided(dataset, make_splits(dataset, config.split, config.subset, config.seed, workers), since)


def make_ready(
    config: ExperimentConfig,
    divided: Divided,
    reporter: Reporter,
    workers: int | None = None,
    device: torch.device = CPU,
    names: Collection[str] = SPLIT_NAMES,
) -> tuple[Divided, Images, float]:
    """Decode every image once, or see that it can be; what is used in the end, and the seconds that took.

    Args:
        config: the experiment.
        divided: its images.
        reporter: told what is left out and where the images lie.
        workers: threads; None takes one a core.
        device: where they are needed.
        names: the splits to decode, `val` among them; without `train`, `Images.train` must not be used.

    Raises:
        ConfigError: `--store device` without a GPU.
        BadImagesError: images that cannot be read, if they are not to be skipped.
        DataError: there is no room for them.
    """
    if config.store == "device" and device.type != "cuda":
        raise ConfigError(
            "--store device keeps the images in a GPU's memory, but this job runs on the CPU; use --store "
            "memory or auto."
        )
    started, workers = time.perf_counter(), workers or cores()
    limit, cached_before = cache_limit(), {entry.name for entry in entries()}
    superseded: set[str] = set()
    while True:
        try:
            sources, notes = _sources(config, divided, workers, reporter, names)
            break
        except BadImagesError as error:
            if config.on_bad_image == "fail" or len(error.reasons) == len(divided.dataset.samples):
                raise
            superseded |= set(_entry_names(config, divided).values()) - cached_before
            divided = _divided(config, divided.dataset.without(error.reasons), workers)
    names = set(_entry_names(config, divided).values())
    for name in superseded - names:
        discard(name)
    evict(limit, names)
    splits = divided.splits
    n_samples = {name: len(split.samples) for name, split in splits.by_name.items()}
    for line in (*splits.notes, *notes, *summary_lines(divided.dataset.classes, n_samples, splits.kind)):
        reporter.say(line)
    images, where = _placed(config, divided.splits, sources, device)
    reporter.say(f"{sum(len(s) for s in sources.values()):,} images {where}.")
    return divided, images, time.perf_counter() - started


def _sources(
    config: ExperimentConfig, divided: Divided, workers: int, reporter: Reporter, names: Collection[str]
) -> tuple[dict[str, StoredImages | StreamedImages], list[str]]:
    """The images of each split, and why they were not kept for later runs, if they were not.

    Raises:
        BadImagesError: all that cannot be decoded, of all splits.
    """
    splits, size, names = divided.splits, config.recipe.image_size, _entry_names(config, divided)
    bad = dict(splits.unreadable)
    sources: dict[str, StoredImages | StreamedImages] = {}
    problems: dict[str, None] = {}  # in order, each once
    place = "auto" if config.store == "device" else config.store
    label = "looking at images" if place == "off" else "decoding"
    wanted = {name: split for name, split in splits.by_name.items() if name in names}
    with reporter.bar(label, sum(len(s.samples) for s in wanted.values())) as advance:
        for name, split in wanted.items():
            kind = training_stream if name == "train" else evaluation_stream
            make: Callable[[], StreamedImages] = partial(kind, split.samples, size, workers)
            try:
                if place == "off":
                    stream = make()
                    visit(stream, advance)
                    sources[name] = stream
                else:
                    sources[name], problem = obtain(names[name], make, place, divided.since, advance)
                    problems |= {problem: None} if problem else {}
            except BadImagesError as error:
                bad |= error.reasons
    if bad:
        raise BadImagesError(bad)
    return sources, [f"Decoded images not cached: {p}." for p in problems]


def _entry_names(config: ExperimentConfig, divided: Divided) -> dict[str, str]:
    """The names of the cache entries of the splits."""
    dataset, size = divided.dataset.name, config.recipe.image_size
    return {
        name: entry_name(dataset, name, size, split.fingerprint)
        for name, split in divided.splits.by_name.items()
    }


def _placed(
    config: ExperimentConfig,
    splits: Splits,
    sources: dict[str, StoredImages | StreamedImages],
    device: torch.device,
) -> tuple[Images, str]:
    """The images where training takes them from, and where that is, in words."""
    stored = {name: s for name, s in sources.items() if isinstance(s, StoredImages)}
    placed: dict[str, ImageSource] = {**sources}
    where = "to be decoded whenever they are needed"
    if stored:
        n_bytes = sum(s.pixels.nbytes for s in stored.values())
        where = "in memory" if all(s.in_memory for s in stored.values()) else "in files"
        on_gpu = config.store == "device"
        if config.store == "auto" and device.type == "cuda":
            on_gpu = n_bytes * SHARE_OF_GPU < torch.cuda.mem_get_info(device)[0]
        if on_gpu:
            placed = {name: DeviceImages(s, device) for name, s in stored.items()}
            where = "on the GPU"
        where = f"decoded: {n_bytes / 1e6:,.0f} MB {where}"
    labels = {name: torch.from_numpy(split.labels()) for name, split in splits.by_name.items()}
    train = placed.pop("train", placed["val"])
    return Images(train, labels["train"], {name: (s, labels[name]) for name, s in placed.items()}), where
