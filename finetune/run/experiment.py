"""The whole job: the same images, every variant, every seed, one results file."""

from __future__ import annotations

import gc
import itertools
import time
from pathlib import Path

import torch

from finetune.config.experiment import ExperimentConfig, Variant
from finetune.data.augment import Views
from finetune.distributed.world import SingleProcess, World
from finetune.errors import RunFolderError
from finetune.network.network import Network, fingerprint
from finetune.network.resnet18 import build
from finetune.run import environment, records
from finetune.run.folder import RunFolder
from finetune.run.prepare import Prepared, memory_errors, prepare
from finetune.run.records import Document, Json, Shard
from finetune.run.report import curves, epoch_line, start_line, summary
from finetune.run.states import keep_state, kept_states
from finetune.system import host
from finetune.system.console import Reporter
from finetune.system.signals import Stopped, StopRequest
from finetune.training.checkpoint import Checkpoints
from finetune.training.features import FrozenPrefix
from finetune.training.record import Epoch, Training
from finetune.training.requirements import require_batch_statistics
from finetune.training.trainer import Trainer
from grader import commitments
from grader.record import results_from

CHECKPOINT_SECONDS = 300.0
"""Within an epoch, a checkpoint is written this often."""


def run_experiment(
    config: ExperimentConfig,
    out: Path,
    reporter: Reporter,
    stop: StopRequest,
    resume: bool = False,
    shard: Shard | None = None,
    world: World | None = None,
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
    folder.check_room(len(pairs), config.keep_states)
    if not resume:
        folder.require_new()
    prepared = prepare(config, reporter, world)
    record = prepared.record
    for variant in () if resume else config.variants:  # a resumed job passed this when it began
        require_batch_statistics(variant, len(prepared.images.train), config.recipe, world.size)
    with folder.locked(), memory_errors(config):
        if not resume:
            folder.begin(prepared.config, shard)
        record["runs"], seconds = folder.resume(record)
        folder.write_identity(record)
        ended = {(run["variant"], run["seed"]) for run in record["runs"]}
        for seed, variant in itertools.product(config.seed_list, config.variants):
            if (variant.name, seed) in ended or (variant.name, seed) not in pairs:
                continue
            started = time.perf_counter()
            run = _run(prepared, variant, seed, folder, reporter, stop, world)
            record["runs"].append(run)
            seconds += max(0.0, run["total_seconds"] - (time.perf_counter() - started))
            record["timings"]["total_seconds"] = seconds + environment.elapsed_seconds()
            folder.write_results(record)
            folder.remove_checkpoints(run)
        folder.remove_state()
        if folder.writes and shard is None:  # the runs of a shard are reported once they are merged
            report(record, folder, reporter)
    return record


def report(record: Document, folder: RunFolder, reporter: Reporter) -> None:
    """Draw the curves, print the table and say where the results are."""
    results = results_from(record)
    curves(results, folder.curves_file)
    reporter.table(summary(results))
    reporter.say(
        f"Results: {folder.results_file}   Curves: {folder.curves_file}   Grade: grader {folder.path}"
    )


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
    started, load = time.perf_counter(), environment.load_average()
    if prepared.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(prepared.device)
    pretrained = prepared.weights.state if prepared.weights else None
    network = build(variant, len(prepared.splits.train.class_counts), seed, pretrained)
    peak = variant.lr or prepared.config.recipe.lr
    start = records.start_record(variant, seed, network, fingerprint(network.state_dict()), peak)
    reporter.say(start_line(start))
    stem = records.run_stem(variant.name, seed)
    saving = _Saving(Checkpoints(folder.state, stem), folder, stop, world, started)
    training = _train(prepared, start, network, saving, reporter)
    if training.failure:
        reporter.say(f"{stem} failed. {training.failure}")
    run = {
        **start,
        **records.end_record(training, network),
        "artifacts": folder.write_artifacts(stem, prepared.splits, training, saving.checkpoints),
        "states": kept_states(training, folder, stem, prepared.config),
        "load_average": environment.mean_load(load),
        "total_seconds": training.seconds + time.perf_counter() - started,
        "peak_memory_bytes": environment.peak_memory_bytes(prepared.device),
    }
    del network
    gc.collect()  # the network and its trainer refer to each other in a cycle
    host.give_back_freed_memory()
    return run


def _train(
    prepared: Prepared, start: Json, network: Network, saving: _Saving, reporter: Reporter
) -> Training:
    """Train a network that `start` describes, and write checkpoints on the way."""
    config, world, checkpoints = prepared.config, saving.world, saving.checkpoints
    network.to(prepared.device).to(memory_format=torch.channels_last)
    interrupt = saving.stop.check if world.size == 1 else lambda: None  # several processes stop together
    prefix = FrozenPrefix(
        network,
        config.recipe,
        config.precision,
        Views(config.cache_views, config.seed) if isinstance(config.cache_views, int) else None,
        prepared.features_of(start["variant"], start["frozen_sha256_before"]),
        interrupt,
    )
    n_images = config.recipe.epochs * len(prepared.images.train)
    with reporter.bar(checkpoints.stem, n_images) as advance, saving.stop.deferred():

        def step_ended(n_images: int) -> None:
            advance(n_images)
            saving.step_ended(trainer)

        def epoch_ended(epoch: Epoch) -> None:
            reporter.say(epoch_line(start["variant"], epoch, config.recipe.epochs))
            keep_state(trainer, saving.folder, checkpoints.stem, config.keep_states)
            saving.save(trainer)
            world.raise_if_stopped(saving.stop)

        trainer = Trainer(
            network,
            prepared.images,
            config.recipe,
            prefix,
            peak=start["learning_rate"],
            seed=start["seed"],
            workers=prepared.workers,
            commitment=commitments.of_start(start, prepared.record["config"]["recipe"]),
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


class _Saving:
    """Decides when the checkpoints of a run are written, and lets rank 0 write them.

    Args:
        checkpoints: of this run.
        folder: its run folder.
        stop: asked whether to end early.
        world: the processes that train together.
        started: `time.perf_counter()` when the run was started or resumed.
    """

    def __init__(
        self, checkpoints: Checkpoints, folder: RunFolder, stop: StopRequest, world: World, started: float
    ) -> None:
        self.checkpoints = checkpoints
        self.folder = folder
        self.stop = stop
        self.world = world
        self.started = self.saved = started

    def save(self, trainer: Trainer) -> None:
        """Write a checkpoint, on rank 0; all processes must call it together."""
        self.saved = time.perf_counter()
        trainer.settle()
        if self.folder.writes:
            self.checkpoints.save(trainer, trainer.training.seconds + self.saved - self.started)

    def step_ended(self, trainer: Trainer) -> None:
        """After a step: raise what kept a checkpoint from being written, stop if asked to, save if due."""
        self.checkpoints.check()
        self.world.raise_if_stopped(self.stop)
        (due,) = self.world.all_reduce_max(time.perf_counter() - self.saved > CHECKPOINT_SECONDS)
        if due:
            self.save(trainer)

    def require_same_start(self, trainer: Trainer) -> None:
        """Check that all processes continue from the same step.

        Raises:
            RunFolderError: they do not.
        """
        if not self.world.all_equal(trainer.training.steps):
            raise RunFolderError(
                f"All processes must find the same checkpoints, but they differ; put {self.folder.path} on a "
                "volume that all processes share."
            )
