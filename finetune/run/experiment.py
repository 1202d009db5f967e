"""The whole job: the same images, every variant, every seed, one results file."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import safetensors.torch
import torch

from finetune.config.experiment import ExperimentConfig, Variant
from finetune.data.augment import Views
from finetune.distributed.group import Peers
from finetune.distributed.world import SingleProcess, World
from finetune.errors import RunFolderError
from finetune.network.network import Network, fingerprint
from finetune.network.resnet18 import build
from finetune.report.page import write_report
from finetune.run import environment, records
from finetune.run.folder import RunFolder
from finetune.run.heads import put_head
from finetune.run.prepare import Prepared, memory_errors, prepare
from finetune.run.progress import Progress
from finetune.run.records import Document, Json, Shard
from finetune.run.report import epoch_line, start_line, summary
from finetune.run.saving import Saving
from finetune.run.trials import chosen, not_trained, trial_record, tune
from finetune.run.tuning import Trial
from finetune.system import host
from finetune.system.console import Reporter
from finetune.system.signals import Stopped, StopRequest
from finetune.training.calibration import calibrate
from finetune.training.checkpoint import Checkpoints
from finetune.training.features import FrozenPrefix
from finetune.training.record import Epoch, Training
from finetune.training.requirements import require_batch_statistics
from finetune.training.trainer import Trainer
from grader.record import results_from


def run_experiment(
    config: ExperimentConfig,
    out: Path,
    reporter: Reporter,
    stop: StopRequest,
    resume: bool = False,
    shard: Shard | None = None,
    world: World | None = None,
    peers: Peers | None = None,
) -> Document:
    """Train every variant with every seed and write the run folder.

    The results file is rewritten after each run, so that an interrupted job keeps the finished ones.

    Args:
        config: what to do.
        out: run folder: new or empty, or to be resumed.
        reporter: receives progress messages.
        stop: asked whether to end early.
        resume: continue the run in the folder.
        shard: train only these variants and seeds; None means all, or those of a shard that is resumed.
        world: the processes that train each network together; rank 0 writes.
        peers: the processes that train other shards, with which trials are shared.

    Returns:
        The results as written.

    Raises:
        FinetuneError: something the user can fix; what was trained before is kept.
        Stopped: a signal came; a checkpoint has been written.
    """
    shard = RunFolder(out).shard() if resume and shard is None else shard
    world = world or SingleProcess(shard.local_size if shard else 1)
    folder = RunFolder(out, writes=world.is_main)
    pairs = shard.pairs if shard else [(v.name, seed) for seed in config.seed_list for v in config.variants]
    folder.check_room(len(pairs))
    if not resume:
        folder.require_new()
    prepared = prepare(config, reporter, world)
    record = prepared.record
    sizes = {len(own.train.samples) for own in prepared.split.by_seed.values() or [prepared.splits]}
    for variant, n in () if resume else itertools.product(config.variants, sizes):  # passed when it began
        require_batch_statistics(variant, n, config.recipe, world.size)
    with folder.locked(), memory_errors(config):
        if not resume:
            folder.begin(prepared.config, shard)
        record["runs"], seconds = folder.resume(record)
        folder.write_identity(record)
        ended = {(run["variant"], run["seed"]) for run in record["runs"]}
        progress = None
        if config.tune:
            progress = Progress(prepared.config, pairs, record["dataset"]["splits"], reporter, peers)
            train = partial(_trial, prepared, folder, reporter, stop, world, progress)
            prepared, earlier = tune(prepared, folder, train, progress, world, peers)
            seconds += earlier
        for seed, variant in itertools.product(config.seed_list, config.variants):
            if (variant.name, seed) in ended or (variant.name, seed) not in pairs:
                continue
            started = time.perf_counter()
            run = _run(prepared.of_seed(seed), variant, seed, folder, reporter, stop, world)
            record["runs"].append(run)
            seconds += max(0.0, run["total_seconds"] - (time.perf_counter() - started))
            record["timings"]["total_seconds"] = seconds + environment.elapsed_seconds()
            folder.write_results(record)
            folder.remove_checkpoints(run)
            if progress:
                progress.run_ended(variant.name, seed)
        folder.remove_state()
        if folder.writes and shard is None:  # the runs of a shard are reported once they are merged
            report(record, folder, reporter)
    return record


def report(record: Document, folder: RunFolder, reporter: Reporter) -> None:
    """Print the table, write report.html and say where the results are.

    Raises:
        RunFolderError: report.html cannot be written.
    """
    reporter.table(summary(results_from(record)))
    files = f"Results: {folder.results_file}   "
    try:
        write_report([folder.path], folder.report_file)
        files += f"Report: {folder.report_file}   "
    except RunFolderError:
        raise
    except Exception as error:  # a bug in a page for people must not make a job of hours look failed
        reporter.say(
            f"The results are complete, but their report could not be made ({type(error).__name__}: "
            f"{error}); please report this bug. `finetune report {folder.path}` tries again."
        )
    reporter.say(f"{files}Grade: grader {folder.path}")


def _run(
    prepared: Prepared,
    variant: Variant,
    seed: int,
    folder: RunFolder,
    reporter: Reporter,
    stop: StopRequest,
    world: World,
) -> Json:
    """Train one variant with one seed, from its checkpoint if it has one; its entry in the results."""
    started = time.perf_counter()
    if prepared.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(prepared.device)
    choice = chosen(prepared.record["tuning"], variant, prepared.config)
    network, start, missing = _begin(prepared, variant, seed, choice.rate, folder)
    start["trial"] = choice.trial
    reporter.say(start_line(start, variant))
    stem = records.run_stem(variant.name, seed)
    saving = Saving(Checkpoints(folder.state, stem), folder, stop, world, started)
    failure = choice.failure or missing
    if failure:
        training = not_trained(failure)
    else:
        training = _train(prepared, prepared.config.epochs_of(variant), start, network, saving, reporter)
    if training.failure:
        reporter.say(f"{stem} failed. {training.failure}")
    ended = records.end_record(training, network)
    metadata = records.checkpoint_metadata(prepared.record, start, training)
    run = {
        **start,
        **ended,
        "calibration": _calibration(prepared, start, network, training, saving),
        "artifacts": folder.write_artifacts(stem, prepared.splits, training, saving.checkpoints, metadata),
        "total_seconds": training.seconds + time.perf_counter() - started,
        "peak_memory_bytes": environment.peak_memory_bytes(prepared.device),
    }
    del network
    _free()
    return run


def _trial(
    prepared: Prepared,
    folder: RunFolder,
    reporter: Reporter,
    stop: StopRequest,
    world: World,
    progress: Progress,
    trial: Trial,
) -> tuple[Json, float]:
    """Train one trial, from its checkpoint if it has one; its entry in the results, and its seconds."""
    started = time.perf_counter()
    (variant,) = (v for v in prepared.config.variants if v.name == trial.variant)
    network, start, _ = _begin(prepared, variant, prepared.config.tuning_seed, trial.learning_rate, folder)
    saving = Saving(Checkpoints(folder.state, trial.stem, keeps_best=False), folder, stop, world, started)
    training = _train(
        prepared,
        trial.epochs,
        start,
        network,
        saving,
        reporter,
        partial(progress.epoch_ended, trial.variant),
    )
    del network
    _free()
    return trial_record(trial, start, training), training.seconds + time.perf_counter() - started


def _begin(
    prepared: Prepared, variant: Variant, seed: int, peak: float, folder: RunFolder
) -> tuple[Network, Json, str | None]:
    """A variant's network before training, what the results say of it, and why it cannot train, or None."""
    pretrained = prepared.weights.state if prepared.weights else None
    network = build(variant, len(prepared.splits.train.class_counts), seed, pretrained)
    missing = put_head(network, variant, seed, folder, prepared.record["runs"])
    start = records.start_record(variant, seed, network, fingerprint(network.state_dict()), peak)
    return network, start, missing


def _free() -> None:
    gc.collect()  # the network and its trainer refer to each other in a cycle
    host.give_back_freed_memory()


def _calibration(
    prepared: Prepared, start: Json, network: Network, training: Training, saving: Saving
) -> Json | None:
    """The `calibration` object of a run; the network is left as it was after the best epoch."""
    if training.best_epoch is None or not saving.folder.writes:
        return None
    best = safetensors.torch.load(saving.checkpoints.best(training.best_epoch))
    network.load_state_dict(best)
    # With several processes, each has cached the features of its part only.
    cache = prepared.features_of(start["variant"], start["frozen_sha256_before"])
    config = prepared.config
    prefix = FrozenPrefix(
        network, config.recipe, config.precision, cache=cache if saving.world.size == 1 else None
    )
    images, predictions = prepared.images, training.best_predictions
    found = calibrate(network, prefix, images, predictions, saving.stop.check)
    return dataclasses.asdict(found)


def _train(
    prepared: Prepared,
    epochs: int,
    start: Json,
    network: Network,
    saving: Saving,
    reporter: Reporter,
    ended: Callable[[Epoch], None] = lambda _: None,
) -> Training:
    """Train a network that `start` describes, and write checkpoints; `ended` is called after each epoch."""
    config, world, checkpoints = prepared.config, saving.world, saving.checkpoints
    recipe = dataclasses.replace(config.recipe, epochs=epochs)
    network.to(prepared.device).to(memory_format=torch.channels_last)
    interrupt = saving.stop.check if world.size == 1 else lambda: None  # several processes stop together
    prefix = FrozenPrefix(
        network,
        recipe,
        config.precision,
        Views(config.cache_views, config.seed) if isinstance(config.cache_views, int) else None,
        prepared.features_of(start["variant"], start["frozen_sha256_before"]),
        interrupt,
    )
    n_images = recipe.epochs * len(prepared.images.train)
    with reporter.bar(checkpoints.stem, n_images) as advance, saving.stop.deferred():

        def step_ended(n_images: int) -> None:
            advance(n_images)
            saving.step_ended(trainer)

        def epoch_ended(epoch: Epoch) -> None:
            reporter.say(epoch_line(start["variant"], epoch, epochs))
            ended(epoch)
            if checkpoints.keeps_best:  # a trial is saved when it is stopped, and every few minutes
                saving.save(trainer)
            world.raise_if_stopped(saving.stop)

        trainer = Trainer(
            network,
            prepared.images,
            recipe,
            prefix,
            peak=start["learning_rate"],
            seed=start["seed"],
            workers=prepared.workers,
            world=world,
            step_ended=step_ended,
            batch_evaluated=interrupt,
        )
        if checkpoints.restore(trainer):
            advance(trainer.training.images)
            reporter.say(f"  resumed after {trainer.training.steps:,} steps")
        saving.require_same_start(trainer)
        try:
            training = trainer.run(epoch_ended)
        except Stopped:
            saving.save(trainer)
            checkpoints.flush()
            raise
        checkpoints.flush()
    return training
