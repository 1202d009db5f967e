"""What all runs of an experiment share: machine, images and weights, checked and loaded before training."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from finetune.config.experiment import ExperimentConfig
from finetune.data.prepare import Images, labeled, prepare_images, reopen_images
from finetune.data.sources import ImageSource
from finetune.data.split_dataset import SplitDataset, split_dataset
from finetune.data.splits import Splits
from finetune.distributed.world import World
from finetune.errors import DataError, OutOfMemory, RunFolderError, listed
from finetune.network.resnet18 import resnet18, state_shapes
from finetune.network.weights import NAMED_WEIGHTS, Weights, load_weights, open_weights
from finetune.run import environment, records
from finetune.run.folder import RunFolder
from finetune.run.gradable import require_gradable
from finetune.run.identity import images_of
from finetune.run.records import Document
from finetune.run.tracking.trackers import require_trackers
from finetune.run.tuning.search import n_values_of_trials
from finetune.system import host
from finetune.system.console import Reporter
from finetune.training.features import FeatureCache, FrozenPrefix, cacheable_bytes
from finetune.training.precision import choose_precision
from finetune.training.requirements import require_memory
from finetune.training.statistics import choose_statistics

LACK_OF_MEMORY = (
    "can't allocate memory",
    "bad_alloc",
    "could not create a",
    "can't start new thread",
    "out of memory",
    "STATUS_ALLOC_FAILED",
)
"""What a RuntimeError says when memory ran out: words of PyTorch's allocator, C++, oneDNN, Python, CUDA's
driver, cuBLAS and cuDNN."""


@dataclass(frozen=True)
class Prepared:
    """What all runs of an experiment share: images, weights and machine, and their record.

    Splits and images are the first seed's; `of_seed` gives another seed's, if each has its own. Where
    learning rates are tuned, `images` has no test images until `with_test` adds them: no trial can be
    judged on them, not even by mistake.

    Where each seed has its own split, images stay in memory that are test images of one seed: others train on
    them. `of_seed` hands out a seed's own training and validation images, and its test images after trials.
    """

    config: ExperimentConfig
    device: torch.device
    workers: int
    splits: Splits
    images: Images
    weights: Weights | None
    record: Document
    split: SplitDataset
    sources: dict[str, ImageSource]
    features: dict[str, tuple[str, FeatureCache]] = field(default_factory=dict)
    has_test: bool = True
    own: dict[int, Prepared] = field(default_factory=dict)
    """That of the last seed, so that its trials share cached features."""

    def with_test(self, reporter: Reporter) -> Prepared:
        """The same with the test images, which `prepare` decoded to find unreadable ones and put aside.

        Raises:
            FinetuneError: they can no longer be read, or neither memory nor disk can hold them.
        """
        if self.split.by_seed:
            ready = dataclasses.replace(self, has_test=True, own={})
            return dataclasses.replace(ready, images=ready.of_seed(self.config.seed).images)
        started = time.perf_counter()
        test = reopen_images(self.config, self.split, reporter, self.workers, self.device, ["test"])
        self.record["timings"]["decode_seconds"] += time.perf_counter() - started
        labels = torch.from_numpy(self.splits.test.labels())
        held_out = {**self.images.held_out, "test": (test["test"], labels)}
        images = dataclasses.replace(self.images, held_out=held_out)
        return dataclasses.replace(self, images=images, has_test=True)

    def of_seed(self, seed: int) -> Prepared:
        """The same with a seed's own splits and images, whose features are not those of another seed."""
        if not self.split.by_seed:
            return self
        if seed not in self.own:
            self.own.clear()
            splits, sources = self.split.of_seed(seed, self.sources, self.workers)
            if not self.has_test:
                del sources["test"]
            images = labeled(splits, sources)
            self.own[seed] = dataclasses.replace(self, splits=splits, images=images, features={}, own={})
        return self.own[seed]

    def features_of(self, variant: str, frozen_sha256: str) -> FeatureCache:
        """The features cached by the previous seed if its frozen prefix was the same, else an empty cache."""
        before = self.features.get(variant)
        if before is None or before[0] != frozen_sha256:
            self.features[variant] = before = (frozen_sha256, FeatureCache())
        return before[1]


def prepare(config: ExperimentConfig, reporter: Reporter, world: World) -> Prepared:
    """Find the images, split them, load the weights and decode every image, before any training.

    Raises:
        FinetuneError: images, weights or device are not as the configuration says.
        ModuleNotFoundError: an extra that a tracker needs is not installed.
    """
    require_trackers(config.track)
    device = environment.choose_device(config.device)
    precision = choose_precision(config.precision, device, config.recipe.image_size)
    config = dataclasses.replace(config, precision=precision)
    environment.choose_algorithms(config.deterministic)
    for variant in config.variants:
        require_memory(variant, config.recipe, precision, device, world.local_size)
    threads = host.choose_threads(config.threads, world.local_size)
    torch.set_num_threads(threads)
    workers = config.workers or threads
    described = environment.describe(device)
    gpu_memory = torch.cuda.mem_get_info(device) if device.type == "cuda" else None
    reporter.say(host.startup_line(described, gpu_memory))
    with memory_errors(config), _others_watched(threads, device, world, reporter):
        found_weights = find_weights(config)
        split = split_dataset(config, workers)
        weights = _weights(config, found_weights, len(split.dataset.classes), reporter)
        split, sources, seconds = prepare_images(config, split, reporter, workers, device)
    if config.tune:  # where each seed has its own split, `heldout` stays: validation images are there, too
        sources.pop("test", None)
    splits, of_first = split.of_seed(config.seed, sources, workers)
    images = labeled(splits, {n: s for n, s in of_first.items() if n != "test" or not config.tune})
    recipe = dataclasses.replace(
        config.recipe, statistics=choose_statistics(config.recipe, len(images.train))
    )
    config = dataclasses.replace(config, recipe=recipe, cache_views=_views(config, len(images.train), device))
    download_seconds = split.dataset.download_seconds + (weights.download_seconds if weights else 0.0)
    record: Document = {
        "schema_version": records.SCHEMA_VERSION,
        "created_at": records.now(),
        "tool": environment.describe_tool(),
        "environment": described,
        "config": records.config_record(config, splits.kind),
        "dataset": records.dataset_record(split.dataset, splits, split.by_seed),
        "weights": records.weights_record(weights),
        "timings": {
            "start_seconds": max(0.0, environment.elapsed_seconds() - download_seconds - seconds),
            "download_seconds": download_seconds,
            "decode_seconds": seconds,
        },
        "tuning": None,
        "runs": [],
    }
    for own in split.by_seed.values() or [splits]:
        require_gradable(record, config, own, n_values_of_trials(config))
    if not world.all_equal([images_of(record["dataset"]), record["weights"]]):
        raise DataError(
            "All processes must have the same images and weights, but they differ; put them on a volume that "
            "all processes share."
        )
    return Prepared(
        config, device, workers, splits, images, weights, record, split, sources, has_test=not config.tune
    )


@contextmanager
def _others_watched(threads: int, device: torch.device, world: World, reporter: Reporter) -> Iterator[None]:
    """Say at the end if other programs meanwhile left fewer cores free than there are threads."""
    others = host.OtherPrograms()
    yield
    if device.type == "cpu" and world.local_size == 1:  # else the others are this job's own processes
        line = host.crowded_line(threads, others.free_cores())
        if line:
            reporter.say(line)


def _views(config: ExperimentConfig, n_train: int, device: torch.device) -> int | None:
    """The number of augmented views; `auto` is resolved here, so that a resumed job has the same."""
    if not isinstance(config.cache_views, str):
        return config.cache_views
    n_bytes = 0
    for variant in config.variants:
        with torch.random.fork_rng(devices=[]):
            network = resnet18(2, variant.groups, variant.adapts).to(device)
        n_bytes += n_train * FrozenPrefix(network, config.recipe, config.precision).bytes_per_image
    shared = config.tune is not None or (config.seeds > 1 and not config.resplit)
    pays = shared and 0 < n_bytes * config.recipe.epochs < cacheable_bytes(device)
    return config.recipe.epochs if pays else None


def find_weights(config: ExperimentConfig) -> str | None:
    """What `load_weights` takes, None if no variant is pretrained. Called before any image is read.

    Raises:
        FinetuneError: there is no such file, or no usable run in the folder.
    """
    if all(v.init == "random" for v in config.variants):
        return None
    if config.weights in NAMED_WEIGHTS:
        return config.weights
    run = RunFolder(Path(config.weights))
    path = best_checkpoint(run) if run.has_results() else Path(config.weights)
    with open_weights(path):
        return str(path)


def best_checkpoint(run: RunFolder) -> Path:
    """The checkpoint with the highest validation accuracy in an earlier run; the first of equals.

    Raises:
        RunFolderError: no run has finished, or the results cannot be read.
    """
    scored = [
        (r.best.val.n_correct, r.artifacts.checkpoint.path)
        for r in run.results().runs
        if r.best is not None and r.artifacts is not None
    ]
    if not scored:
        raise RunFolderError(
            f"A run folder given as --weights must have a finished run, but {run.path} has none; "
            "name another one."
        )
    return run.artifact_file(max(scored, key=lambda entry: entry[0])[1])


def _weights(
    config: ExperimentConfig, found: str | None, n_classes: int, reporter: Reporter
) -> Weights | None:
    """The pretrained weights, fitted to the number of classes."""
    if found is None:
        return None
    weights = load_weights(found, state_shapes(n_classes))
    if weights.kind == "file" and Path(config.weights).is_dir():
        weights = dataclasses.replace(weights, kind="run")
    part = f", {weights.part}" if weights.part else ""
    reporter.say(f"Pretrained weights: {weights.source} (SHA-256 {weights.sha256[:12]}...){part}")
    if weights.dropped:
        reporter.say(
            f"Their head does not fit these classes and was dropped: {listed(list(weights.dropped))}."
        )
    return weights


@contextmanager
def memory_errors(config: ExperimentConfig) -> Iterator[None]:
    """Turn what PyTorch and Python raise when memory runs out into a sentence with a batch size to try."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
            text in str(error) for text in LACK_OF_MEMORY
        ):
            smaller = max(1, config.recipe.batch_size // 2)
            raise OutOfMemory(
                f"A batch of {config.recipe.batch_size} images of {config.recipe.image_size} pixels does not "
                f"fit into the free memory; try --batch-size {smaller}, or a smaller --image-size."
            ) from error
        raise
