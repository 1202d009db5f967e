"""The whole job: the same images, every variant, every seed, one results file."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote

import torch

from finetune.config.experiment import ExperimentConfig, Variant
from finetune.distributed.group import Peers
from finetune.distributed.world import SingleProcess, World
from finetune.errors import RunFolderError
from finetune.network.network import Network, State
from finetune.report.judged import JudgedRun, judged, to_owner
from finetune.report.page import write_report
from finetune.run import artifacts, environment, fit, records
from finetune.run.folder import RunFolder
from finetune.run.heads import put_head
from finetune.run.prepare import Prepared, memory_errors, prepare
from finetune.run.progress import Progress
from finetune.run.records import Document, Json, Pair, Shard
from finetune.run.report import doubt_lines, doubt_summary, start_line, summary, verdict_facts
from finetune.run.saving import Saving
from finetune.run.tracking.trackers import Tracking, open_tracking
from finetune.run.tuning.heads import TrialHeads
from finetune.run.tuning.search import Trial
from finetune.run.tuning.trials import chosen, not_trained, trial_record, tune
from finetune.run.watch import Watch
from finetune.system import host
from finetune.system.console import Reporter
from finetune.system.signals import StopRequest
from finetune.training.checkpoint import Checkpoints
from finetune.training.record import Epoch
from finetune.training.requirements import require_batch_statistics
from grader.submission.record import results_from, run_name


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
    shard = shard or (RunFolder(out).shard() if resume else None)
    world = world or SingleProcess(shard.local_size if shard else 1)
    folder = RunFolder(out, writes=world.is_main)
    pairs = shard.pairs if shard else [(v.name, seed) for seed in config.seed_list for v in config.variants]
    folder.check_room(len(pairs), config.keep_states)
    if not resume:
        folder.require_new()
    prepared = prepare(config, reporter, world)
    record = prepared.record
    if not resume:  # else it passed when it began
        _require_statistics(prepared, world)
    with folder.locked(), memory_errors(config):
        if not resume:
            folder.begin(prepared.config, shard)
        record["runs"], seconds = folder.resume(record)
        folder.write_identity(record)
        tracking = open_tracking(config.track if folder.writes and not shard else (), out, record, reporter)
        watch = Watch(prepared.config, _left(pairs, record), record, reporter)
        watch.begin(record, str(folder.path), resume)
        with reporter.watching(watch):
            _Job(folder, reporter, stop, world, peers, watch, tracking).train(prepared, pairs, seconds)
        folder.remove_state()
        if folder.writes and shard is None:  # the runs of a shard are reported once they are merged
            report(record, folder, reporter, tracking)
    return record


def _left(pairs: Sequence[Pair], record: Document) -> list[Pair]:
    """The variants and seeds that have not ended."""
    ended = {(entry["variant"], entry["seed"]) for entry in record["runs"]}
    return [pair for pair in pairs if pair not in ended]


def _require_statistics(prepared: Prepared, world: World) -> None:
    """Check that every batch of every split has enough images for BatchNorm."""
    config = prepared.config
    sizes = {len(own.train.samples) for own in prepared.split.by_seed.values() or [prepared.splits]}
    for variant, n in itertools.product(config.variants, sizes):
        require_batch_statistics(variant, n, config.recipe, world.size)


@dataclass(frozen=True)
class _Job:
    """What the trainings of an experiment in this process have in common, beside images and weights."""

    folder: RunFolder
    reporter: Reporter
    stop: StopRequest
    world: World
    peers: Peers | None
    watch: Watch
    tracking: Tracking

    def train(self, prepared: Prepared, pairs: Sequence[Pair], seconds: float) -> None:
        """Run the trials, if any, then the final runs that have not ended; `seconds` were spent before."""
        progress, record = None, prepared.record
        if prepared.config.tune:
            progress = Progress(self.watch, self.peers)
            trial = partial(self.trial, prepared, progress)
            prepared, earlier = tune(prepared, self.folder, trial, progress, self.world, self.peers)
            seconds += earlier
        left = _left(pairs, record)
        for seed, variant in itertools.product(prepared.config.seed_list, prepared.config.variants):
            if (variant.name, seed) not in left:
                continue
            started = time.perf_counter()
            entry = self.run(prepared.of_seed(seed), variant, seed)
            record["runs"].append(entry)
            seconds += max(0.0, entry["total_seconds"] - (time.perf_counter() - started))
            record["timings"]["total_seconds"] = seconds + environment.elapsed_seconds()
            self.folder.write_results(record)
            self.tracking.ended(entry)
            self.folder.remove_checkpoints(entry)
            if progress:
                progress.run_ended()

    def run(self, prepared: Prepared, variant: Variant, seed: int) -> Json:
        """Train one variant with one seed, from its checkpoint if it has one; its entry in the results."""
        started, load = time.perf_counter(), environment.load_average()
        if prepared.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(prepared.device)
        config, folder, record = prepared.config, self.folder, prepared.record
        choice = chosen(record["tuning"], variant, seed, config)
        put = partial(put_head, variant=variant, seed=seed, folder=folder, runs=record["runs"])
        network, start, missing = fit.begin(prepared, variant, seed, choice.rate, put)
        start["trial"] = choice.trial
        epochs = config.epochs_of(variant)
        self.reporter.detail(start_line(start, variant))
        self.watch.run_begins(variant.name, seed, choice.rate, epochs)
        stem = run_name(variant.name, seed)
        saving = self._saving(Checkpoints(folder.state, stem), started)
        failure = choice.failure or missing
        if failure:
            training = not_trained(failure)
        else:
            ended, track = self.watch.epoch_ended, self.tracking.of(start)
            training = fit.train(prepared, epochs, start, network, saving, self.reporter, ended, track)
        self.watch.run_ended(variant.name, seed, training.failure is not None)
        if training.failure:
            self.reporter.warn(f"{stem} failed. {training.failure}")
        ended_record = records.end_record(training, network)
        metadata = records.checkpoint_metadata(record, start, training)
        run = {
            **start,
            **ended_record,
            "calibration": fit.calibration(prepared, start, network, training, saving),
            "artifacts": artifacts.write_artifacts(
                folder, stem, prepared.splits, training, saving.checkpoints, metadata
            ),
            "states": artifacts.kept_states(training, folder, stem, config.keep_states, epochs),
            "load_average": environment.mean_load(load),
            "total_seconds": training.seconds + time.perf_counter() - started,
            "peak_memory_bytes": environment.peak_memory_bytes(prepared.device),
        }
        del network
        host.give_back_freed_memory()  # not after a trial: the next one takes as much, in 70,000 page faults
        return run

    def trial(
        self, prepared: Prepared, progress: Progress, trial: Trial, head: State | None
    ) -> tuple[Json, float]:
        """Train one trial, from its checkpoint if it has one; its entry in the results, and its seconds."""
        started = time.perf_counter()
        plan, heads = progress.plan, TrialHeads(self.folder, progress.plan)
        if trial.for_seed is not None:
            prepared = prepared.of_seed(trial.for_seed)

        def put(network: Network) -> None:
            network.load_state_dict(head or {}, strict=False)

        variant, rate = plan.by_name[trial.variant], trial.learning_rate
        network, start, _ = fit.begin(prepared, variant, plan.seed, rate, put)

        def epoch_ended(epoch: Epoch, best: Network | None) -> None:
            progress.epoch_ended(epoch)
            if best is not None:
                heads.keep(trial, epoch.epoch, best)

        saving = self._saving(Checkpoints(self.folder.state, trial.stem, keeps_best=False), started)
        training = fit.train(prepared, trial.epochs, start, network, saving, self.reporter, epoch_ended)
        return trial_record(trial, start, training), training.seconds + time.perf_counter() - started

    def _saving(self, checkpoints: Checkpoints, started: float) -> Saving:
        return Saving(checkpoints, self.folder, self.stop, self.world, started)


def report(record: Document, folder: RunFolder, reporter: Reporter, tracking: Tracking | None = None) -> None:
    """Say what the run found: the verdict, the table, what does not hold, and where the files are.

    Args:
        record: the results.
        folder: of the run.
        reporter: is told.
        tracking: of the job; None opens that of the configuration in the folder.

    Raises:
        RunFolderError: report.html cannot be written.
    """
    files = f"Results: {folder.results_file}   "
    found: JudgedRun | None = None
    answer, doubts, in_short, results = list[str](), list[str](), "", results_from(record)
    try:
        (found,) = judged([folder.path])
        answer, doubts = to_owner(found.grade.verdict), doubt_lines(found.grade)
        in_short = doubt_summary(found.grade, folder.path)
        reporter.event("verdict", verdict_facts(found.grade, results))
        write_report([found], folder.report_file)
        files += f"Report: {folder.report_file}   "
    except RunFolderError:
        raise
    except Exception as error:  # a bug in a page for people must not make a job of hours look failed
        reporter.warn(
            f"The results are complete, but their report could not be made ({type(error).__name__}: "
            f"{error}); please report this bug. `finetune report {quote(str(folder.path))}` tries again."
        )
    for line in answer:
        reporter.answer(line)
    reporter.table(summary(results))
    reporter.doubts(doubts, in_short)
    reporter.say(f"{files}Grade: grader {quote(str(folder.path))}")
    if found:
        tracking = tracking or open_tracking(folder.config().track, folder.path, record, reporter)
        tracking.finished(record, found)
