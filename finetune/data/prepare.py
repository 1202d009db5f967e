"""From a data set with its splits to images that are ready for training: decoded, or checked."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from finetune.config.experiment import ExperimentConfig
from finetune.data.cache import cache_limit, discard, entries, evict, obtain
from finetune.data.datasets import SPLIT_NAMES
from finetune.data.device import DeviceImages, free_memory_bytes
from finetune.data.near_duplicates import tell, with_near_duplicates
from finetune.data.perceptual import Hashes
from finetune.data.sources import ImageSource
from finetune.data.split_dataset import SplitDataset, decoded_as, without
from finetune.data.splits import Splits, summary_lines
from finetune.data.store import StoredImages
from finetune.data.stream import StreamedImages, evaluation_stream, training_stream, visit
from finetune.errors import BadImagesError, ConfigError, sized
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
            split = without(split, error.reasons, config, workers)
    in_use = set(split.entry_names(size).values())
    for name in superseded - in_use:
        discard(name)
    evict(limit, in_use)
    _tell(split, notes, reporter)
    if set(names) == set(SPLIT_NAMES):
        first, by_seed = with_near_duplicates(split.splits, split.by_seed, split.decoded, hashes)
        split = dataclasses.replace(split, splits=first, by_seed=by_seed)
        tell(first, reporter)
    sources, where = _placed(config, decoded, device)
    reporter.say(f"{sum(map(len, sources.values())):,} images {where}.")
    return split, sources, time.perf_counter() - started


def _tell(split: SplitDataset, notes: Sequence[str], reporter: Reporter) -> None:
    """Say what is excluded, which classes there are, and how they are split."""
    for line in (*split.splits.notes, *notes):
        reporter.warn(line)
    n_samples = {name: len(s.samples) for name, s in split.splits.by_name.items()}
    kind = split.splits.kind + ", another one for each seed" * bool(split.by_seed)
    for line in summary_lines(split.dataset.classes, n_samples, kind):
        reporter.say(line)


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
        on_gpu = n_bytes * GPU_FRACTION < free_memory_bytes(device)
    size = f"decoded: {sized(n_bytes)}"
    if on_gpu:
        return {name: DeviceImages(s, device) for name, s in stored.items()}, f"{size} on the GPU"
    where = "in memory" if all(s.in_memory for s in stored.values()) else "in files"
    return {**stored}, f"{size} {where}"
