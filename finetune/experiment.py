"""The whole job: the same images, every variant, every seed, one results file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finetune import environment, host, results
from finetune.checkpoint import Checkpoints
from finetune.config import ExperimentConfig, Variant
from finetune.console import Reporter
from finetune.datasets import Dataset, load_dataset
from finetune.errors import BadImagesError, OutOfMemory
from finetune.files import locked
from finetune.models import build, fingerprint, state_shapes
from finetune.optimize import require_statistics
from finetune.report import curves, epoch_line, start_line, summary
from finetune.signals import Stopped, StopRequest
from finetune.splits import Splits, make_splits
from finetune.store import Store, decode_evaluation, decode_training
from finetune.train import Epoch, Images, Trainer
from finetune.weights import Weights, load_weights

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


def run_experiment(
    config: ExperimentConfig, out: Path, reporter: Reporter, stop: StopRequest, resume: bool = False
) -> dict[str, Any]:
    """Train every variant with every seed and write the run folder; the results as written.

    The results file is written anew after each run, so an interrupted job keeps what has ended.

    Args:
        config: what to do.
        out: run folder: new or empty, or to be resumed.
        reporter: told what happens.
        stop: asked whether to end early.
        resume: go on where the run folder stands.

    Raises:
        FinetuneError: something the user can put right; what was trained before is kept.
        Stopped: a signal came; a checkpoint has been written.
    """
    n_runs = len(config.variants) * config.seeds
    host.check_writable(out, "run folder", STATE_BYTES + n_runs * CHECKPOINT_BYTES)
    if not resume:
        results.require_new(out)
    prepared = prepare(config, reporter)
    record = prepared.record
    for variant in () if resume else config.variants:  # a resumed job was held to this when it began
        require_statistics(variant, len(prepared.images.train), config.recipe)
    with locked(out), memory_errors(config):
        record["runs"], earlier_seconds = results.ended_runs(out, record) if resume else ([], 0.0)
        if not resume:
            results.begin_run_folder(out, config)
        results.write_identity(out, record)
        ended = {(run["variant"], run["seed"]) for run in record["runs"]}
        for seed in config.seed_list:
            for variant in config.variants:
                if (variant.name, seed) in ended:
                    continue
                began = time.perf_counter()
                run = _run(prepared, variant, seed, out, reporter, stop)
                record["runs"].append(run)
                earlier_seconds += max(0.0, run["total_seconds"] - (time.perf_counter() - began))
                record["timings"]["total_seconds"] = earlier_seconds + environment.elapsed_seconds()
                results.write_results(out, record)
                Checkpoints(out / results.STATE, run_stem(variant.name, seed)).clear()
        results.remove_state(out)
        curves(record, out / "curves.png")
        reporter.table(summary(record))
        reporter.say(f"Results: {out / 'results.json'}   Curves: {out / 'curves.png'}   Grade: grader {out}")
        return record


def prepare(config: ExperimentConfig, reporter: Reporter) -> Prepared:
    """Find the images, divide them, fit the weights and decode every image, before any training.

    Raises:
        FinetuneError: images, weights or device are not as the configuration says.
    """
    device = environment.choose_device(config.device)
    if config.deterministic:
        environment.use_deterministic_algorithms()
    workers = config.workers or host.cores()
    torch.set_num_threads(host.cores())
    described = environment.describe(device)
    gpu_memory = torch.cuda.mem_get_info(device) if device.type == "cuda" else None
    reporter.say(host.startup_line(described, gpu_memory))
    note = host.shared_memory_note()
    if note:
        reporter.say(note)
    with memory_errors(config):
        dataset, splits, images, seconds = load_images(config, workers, reporter)
        weights = _weights(config, len(dataset.classes), reporter)
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
    return Prepared(config, device, workers, splits, images, weights, record)


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


def load_images(
    config: ExperimentConfig, workers: int, reporter: Reporter
) -> tuple[Dataset, Splits, Images, float]:
    """Find the images, divide them and decode every one; the seconds that decoding took.

    Raises:
        DataError: they are not as the configuration says, or some cannot be read and are not to be skipped.
    """
    dataset = load_dataset(config.dataset, Path(config.data_root))
    while True:
        try:
            splits = make_splits(dataset, config.split, config.subset, config.seed, workers)
            started = time.perf_counter()
            images = _decode(splits, config.recipe.image_size, workers, reporter)
            break
        except BadImagesError as error:
            if config.on_bad_image == "fail" or len(error.reasons) == len(dataset.samples):
                raise
            dataset = dataset.without(error.reasons)
    for note in splits.notes:
        reporter.say(note)
    n_bytes = images.train.pixels.nbytes + sum(pixels.nbytes for pixels, _ in images.held_out.values())
    n_images = len(images.train) + sum(len(labels) for _, labels in images.held_out.values())
    reporter.say(f"{n_images:,} images decoded: {n_bytes / 1e6:,.0f} MB.")
    if not images.train.in_memory:
        reporter.say("They lie in a temporary file, since they would take more than half of the free memory.")
    return dataset, splits, images, time.perf_counter() - started


def _decode(splits: Splits, image_size: int, workers: int, reporter: Reporter) -> Images:
    """Every image decoded once, before any training.

    Raises:
        BadImagesError: all that cannot be decoded, of all splits.
    """
    bad = dict(splits.unreadable)
    stores: dict[str, Store] = {}
    total = sum(len(s.samples) for s in splits.by_name.values())
    with reporter.bar("decoding", total) as advance:
        for name, split in splits.by_name.items():
            decode = decode_training if name == "train" else decode_evaluation
            try:
                stores[name] = decode(split.samples, image_size, workers, advance)
            except BadImagesError as error:
                bad |= error.reasons
    if bad:
        raise BadImagesError(bad)
    train = stores.pop("train")
    held_out = {
        name: (
            torch.from_numpy(store.pixels).view(len(store), image_size, image_size, 3),
            torch.from_numpy(splits.by_name[name].labels()),
        )
        for name, store in stores.items()
    }
    return Images(train, torch.from_numpy(splits.train.labels()), held_out)


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
    prepared: Prepared, variant: Variant, seed: int, out: Path, reporter: Reporter, stop: StopRequest
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
    stem = run_stem(variant.name, seed)
    checkpoints = Checkpoints(out / results.STATE, stem)
    with reporter.bar(stem, config.recipe.epochs * len(prepared.images.train)) as advance, stop.deferred():
        saved = started

        def save(trainer: Trainer) -> None:
            nonlocal saved
            saved = time.perf_counter()
            checkpoints.save(trainer, trainer.training.seconds + saved - started)

        def step_ended(n_images: int) -> None:
            advance(n_images)
            stop.check()
            if time.perf_counter() - saved > CHECKPOINT_SECONDS:
                save(trainer)

        def epoch_ended(epoch: Epoch) -> None:
            reporter.say(epoch_line(variant.name, epoch, config.recipe.epochs))
            if trainer.training.best_epoch == epoch.epoch:
                checkpoints.save_best(epoch.epoch, network)
            save(trainer)
            stop.check()

        trainer = Trainer(
            network,
            prepared.images,
            config.recipe,
            peak=peak,
            seed=seed,
            device=device,
            workers=prepared.workers,
            step_ended=step_ended,
            batch_evaluated=stop.check,
        )
        if checkpoints.restore(trainer):
            advance(trainer.training.images)
            reporter.say(f"  resumed after {trainer.training.steps:,} steps")
        try:
            training = trainer.run(epoch_ended)
        except Stopped:
            save(trainer)
            raise
    if training.failure:
        reporter.say(f"{stem} failed. {training.failure}")
    artifacts = None
    if training.best_epoch is not None:
        best = checkpoints.best(training.best_epoch)
        artifacts = results.write_artifacts(out, stem, prepared.splits, best, training.best_predictions)
    return {
        **start,
        **results.end_record(training, network, artifacts),
        "total_seconds": training.seconds + time.perf_counter() - started,
        "peak_memory_bytes": environment.peak_memory_bytes(device),
    }
