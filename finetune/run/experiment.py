"""The whole job: the same images, every variant, every seed, one results file."""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from finetune.config.experiment import ExperimentConfig, Variant
from finetune.data.augment import Views
from finetune.data.prepare import Images, divide, make_ready
from finetune.data.splits import Splits
from finetune.distributed.world import SingleProcess, World
from finetune.errors import DataError, OutOfMemory, RunFolderError
from finetune.network.network import fingerprint
from finetune.network.resnet18 import build, resnet18, state_shapes
from finetune.network.weights import Weights, load_weights
from finetune.run import environment
from finetune.run import folder as results
from finetune.run.report import curves, epoch_line, start_line, summary
from finetune.system import host
from finetune.system.console import Reporter
from finetune.system.files import locked
from finetune.system.signals import Stopped, StopRequest
from finetune.training.checkpoint import Checkpoints
from finetune.training.features import FeatureCache, FrozenPrefix, cacheable_bytes
from finetune.training.precision import choose_precision
from finetune.training.record import Epoch
from finetune.training.requirements import require_batch_statistics, require_memory
from finetune.training.trainer import Trainer

CHECKPOINT_SECONDS = 300.0
"""Within an epoch, a checkpoint is written this often."""


LACK_OF_MEMORY = ("can't allocate memory", "bad_alloc", "could not create a", "can't start new thread")
"""What a RuntimeError says where memory ran out: PyTorch's allocator, C++, oneDNN's primitives, Python."""

CHECKPOINT_BYTES = 45 << 20
"""A ResNet-18 on disk, rounded up."""

STATE_BYTES = 8 * CHECKPOINT_BYTES
"""Two resume points (network and momentum), the best epochs they refer to, and one being written."""


@dataclass(frozen=True)
class Prepared:
    """What all runs of an experiment share: images, weights and machine, and the record of them."""

    config: ExperimentConfig
    device: torch.device
    workers: int
    splits: Splits
    images: Images
    weights: Weights | None
    record: dict[str, Any]
    features: dict[str, tuple[str, FeatureCache]] = field(default_factory=dict)

    def features_of(self, variant: str, frozen_sha256: str) -> FeatureCache:
        """The features cached by the previous seed if its frozen prefix was the same, else an empty cache."""
        before = self.features.get(variant)
        if before is None or before[0] != frozen_sha256:
            self.features[variant] = before = (frozen_sha256, FeatureCache())
        return before[1]


def run_experiment(
    config: ExperimentConfig,
    out: Path,
    reporter: Reporter,
    stop: StopRequest,
    resume: bool = False,
    pairs: Collection[tuple[str, int]] | None = None,
    world: World | None = None,
) -> dict[str, Any]:
    """Train every variant with every seed and write the run folder; the results as written.

    The results file is written anew after each run, so an interrupted job keeps what has ended.

    Args:
        config: what to do.
        out: run folder: new or empty, or to be resumed.
        reporter: told what happens.
        stop: asked whether to end early.
        resume: go on where the run folder stands.
        pairs: train only these variants and seeds; None means all.
        world: the processes that train each network together; the first one writes.

    Raises:
        FinetuneError: something the user can put right; what was trained before is kept.
        Stopped: a signal came; a checkpoint has been written.
    """
    world = world or SingleProcess()
    n_runs = len(config.variants) * config.seeds if pairs is None else len(pairs)
    if world.is_main:
        host.check_writable(out, "run folder", STATE_BYTES + n_runs * CHECKPOINT_BYTES)
        if not resume:
            results.require_new(out)
    prepared = prepare(config, reporter, world)
    record = prepared.record
    for variant in () if resume else config.variants:  # a resumed job was held to this when it began
        require_batch_statistics(variant, len(prepared.images.train), config.recipe, world.size)
    with locked(out) if world.is_main else nullcontext(), memory_errors(config):
        record["runs"], earlier_seconds = results.ended_runs(out, record) if resume else ([], 0.0)
        if world.is_main:
            if not resume:
                results.begin_run_folder(out, prepared.config)
            results.write_identity(out, record)
        ended = {(run["variant"], run["seed"]) for run in record["runs"]}
        for seed in config.seed_list:
            for variant in config.variants:
                if (variant.name, seed) in ended or (pairs is not None and (variant.name, seed) not in pairs):
                    continue
                began = time.perf_counter()
                run = _run(prepared, variant, seed, out, reporter, stop, world)
                gc.collect()  # the network and its trainer refer to each other in a circle
                host.give_back_freed_memory()
                record["runs"].append(run)
                if not world.is_main:
                    continue
                earlier_seconds += max(0.0, run["total_seconds"] - (time.perf_counter() - began))
                record["timings"]["total_seconds"] = earlier_seconds + environment.elapsed_seconds()
                results.write_results(out, record)
                Checkpoints(out / results.STATE, run_stem(variant.name, seed)).clear()
        if not world.is_main:
            return record
        results.remove_state(out)
        if pairs is not None:  # a shard is not to be judged by itself
            return record
        curves(record, out / "curves.png")
        reporter.table(summary(record))
        reporter.say(f"Results: {out / 'results.json'}   Curves: {out / 'curves.png'}   Grade: grader {out}")
        return record


def prepare(config: ExperimentConfig, reporter: Reporter, world: World) -> Prepared:
    """Find the images, divide them, fit the weights and have every image ready, before any training.

    Raises:
        FinetuneError: images, weights or device are not as the configuration says.
    """
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
    note = host.shared_memory_note()
    if note:
        reporter.say(note)
    with memory_errors(config):
        divided = divide(config, workers)
        weights = _weights(config, len(divided.dataset.classes), reporter)
        divided, images, seconds = make_ready(config, divided, reporter, workers, device)
    config = dataclasses.replace(config, cache_views=_views(config, len(images.train), device))
    dataset, splits = divided.dataset, divided.splits
    download_seconds = dataset.download_seconds + (weights.download_seconds if weights else 0.0)
    record = {
        "tool": environment.describe_tool(),
        "environment": described,
        "config": results.config_record(config, splits.kind),
        "dataset": results.dataset_record(dataset, splits),
        "weights": results.weights_record(weights),
        "timings": {
            "start_seconds": max(0.0, environment.elapsed_seconds() - download_seconds - seconds),
            "download_seconds": download_seconds,
            "decode_seconds": seconds,
        },
    }
    if not world.all_equal([splits.fingerprints, record["weights"]]):
        raise DataError(
            "Every process must have the same images and weights, but they do not; put them on a volume that "
            "all of them share."
        )
    return Prepared(config, device, workers, splits, images, weights, record)


def _views(config: ExperimentConfig, n_train: int, device: torch.device) -> int | None:
    """How many augmented views to keep; `auto` is resolved now, so that a resumed job has the same."""
    if not isinstance(config.cache_views, str):
        return config.cache_views
    n_bytes = 0
    for variant in config.variants:
        with torch.random.fork_rng(devices=[]):
            network = resnet18(2, variant.groups).to(device)
        n_bytes += n_train * FrozenPrefix(network, config.recipe, config.precision).bytes_per_image
    pays = config.seeds > 1 and 0 < n_bytes * config.recipe.epochs < cacheable_bytes(device)
    return config.recipe.epochs if pays else None


def _weights(config: ExperimentConfig, n_classes: int, reporter: Reporter) -> Weights | None:
    """The pretrained weights, if any variant wants them, and what was said about their head."""
    if all(v.init == "random" for v in config.variants):
        return None
    weights = load_weights(config.weights, state_shapes(n_classes))
    reporter.say(f"Pretrained weights: {weights.source} (SHA-256 {weights.sha256[:12]}...)")
    if weights.dropped:
        reporter.say(
            f"Their head has another number of classes and was dropped: {', '.join(weights.dropped)}."
        )
    return weights


@contextmanager
def memory_errors(config: ExperimentConfig) -> Iterator[None]:
    """Turn what PyTorch and Python raise for lack of memory into a sentence with the batch size to try."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
            text in str(error) for text in LACK_OF_MEMORY
        ):
            smaller = max(1, config.recipe.batch_size // 2)
            raise OutOfMemory(
                f"A batch of {config.recipe.batch_size} images of {config.recipe.image_size} pixels does not "
                f"fit into the memory that is free; try --batch-size {smaller}, or a smaller --image-size."
            ) from error
        raise


def run_stem(name: str, seed: int) -> str:
    """What the names of a run's files begin with."""
    return f"{name}-seed{seed}"


def _run(
    prepared: Prepared,
    variant: Variant,
    seed: int,
    out: Path,
    reporter: Reporter,
    stop: StopRequest,
    world: World,
) -> dict[str, Any]:
    """Train one variant with one seed, from its checkpoint if it has one; its entry in the results."""
    started = time.perf_counter()
    config, device = prepared.config, prepared.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    pretrained = prepared.weights.state if prepared.weights else None
    network = build(variant, len(prepared.splits.train.class_counts), seed, pretrained)
    peak = variant.lr or config.recipe.lr
    start = results.start_record(variant, seed, network, fingerprint(network.state_dict()), peak)
    reporter.say(start_line(start))
    network.to(device).to(memory_format=torch.channels_last)
    interrupt = stop.check if world.size == 1 else lambda: None  # several processes stop together
    prefix = FrozenPrefix(
        network,
        config.recipe,
        config.precision,
        Views(config.cache_views, config.seed) if isinstance(config.cache_views, int) else None,
        prepared.features_of(variant.name, start["frozen_sha256_before"]),
        interrupt,
    )
    stem = run_stem(variant.name, seed)
    checkpoints = Checkpoints(out / results.STATE, stem)
    with reporter.bar(stem, config.recipe.epochs * len(prepared.images.train)) as advance, stop.deferred():
        saved = started

        def save(trainer: Trainer) -> None:
            nonlocal saved
            saved = time.perf_counter()
            trainer.settle()
            if world.is_main:
                checkpoints.save(trainer, trainer.training.seconds + saved - started)

        def step_ended(n_images: int) -> None:
            advance(n_images)
            checkpoints.check()
            world.raise_if_stopped(stop)
            (due,) = world.all_reduce_max(time.perf_counter() - saved > CHECKPOINT_SECONDS)
            if due:
                save(trainer)

        def epoch_ended(epoch: Epoch) -> None:
            reporter.say(epoch_line(variant.name, epoch, config.recipe.epochs))
            save(trainer)
            world.raise_if_stopped(stop)

        trainer = Trainer(
            network,
            prepared.images,
            config.recipe,
            prefix,
            peak=peak,
            seed=seed,
            workers=prepared.workers,
            world=world,
            step_ended=step_ended,
            batch_evaluated=interrupt,
        )
        if checkpoints.restore(trainer):
            advance(trainer.training.images)
            reporter.say(f"  resumed after {trainer.training.steps:,} steps")
        if not world.all_equal(trainer.training.steps):
            raise RunFolderError(
                f"Every process must find the same checkpoints, but they do not; put {out} on a volume that "
                "all of them share."
            )
        try:
            training = trainer.run(epoch_ended)
        except Stopped:
            save(trainer)
            checkpoints.flush()
            raise
        checkpoints.flush()
    if training.failure:
        reporter.say(f"{stem} failed. {training.failure}")
    artifacts = None
    if world.is_main and training.best_epoch is not None:
        best = checkpoints.best(training.best_epoch)
        artifacts = results.write_artifacts(out, stem, prepared.splits, best, training.best_predictions)
    return {
        **start,
        **results.end_record(training, network, artifacts),
        "total_seconds": training.seconds + time.perf_counter() - started,
        "peak_memory_bytes": environment.peak_memory_bytes(device),
    }
