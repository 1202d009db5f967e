"""`--parallel`: one experiment trained by several processes.

With `--parallel runs` each process trains some of the pairs of variant and seed, in its own run folder,
a shard. The processes exchange nothing while they train; if the launcher connects them, they wait for one
another at the end and rank 0 merges the shards. Trials that tune are divided before, and every process
learns how all of them ended. With `--parallel data` they train each network together.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from shlex import quote
from typing import Any

import torch

from finetune.config.experiment import ExperimentConfig
from finetune.config.names import gpu_number
from finetune.distributed.group import (
    PeerError,
    Peers,
    connect,
    gather_failures,
    peer_errors,
    raise_failures,
)
from finetune.distributed.launcher import LaunchInfo, assign, launch_info
from finetune.distributed.world import DataParallel
from finetune.errors import ConfigError, FinetuneError, RunFolderError
from finetune.run.experiment import run_experiment
from finetune.run.folder import RunFolder
from finetune.run.heads import trained_together
from finetune.run.merge import merge_runs
from finetune.run.records import Document, Shard
from finetune.system.console import Reporter
from finetune.system.signals import StopRequest

Train = Callable[[Path, Shard, bool, Peers | None], Document]
"""Trains a shard in a run folder, resuming it if asked to, in touch with its peers; returns the results."""


def shard_folder(out: Path, rank: int) -> Path:
    """The run folder of one process."""
    return out / f"shard-{rank:03d}"


def train_parallel(
    mode: str, config: ExperimentConfig, out: Path, resume: bool, stop: StopRequest, reporter: Reporter
) -> Mapping[str, Any]:
    """Train as one of several processes.

    Args:
        mode: `runs`: each process trains some of the variants and seeds; `data`: all share each batch.
        config: the whole experiment.
        out: folder of the shards, or run folder.
        resume: continue the run in the folder; with `runs` repeating the command resumes.
        stop: asked whether to end early.
        reporter: of this process.

    Returns:
        The results that this process has; without runs if it has none.

    Raises:
        FinetuneError: this process or another one failed; what was trained is kept.
        Stopped: a signal came.
    """
    info = launch_info()
    try:
        if gpu_number(config.device) is not None:
            raise ConfigError(
                f"With --parallel each process chooses its own GPU, but --device {config.device} was given; "
                "use --device cuda, and CUDA_VISIBLE_DEVICES to choose among GPUs."
            )
        if _on_gpu(config):
            torch.cuda.set_device(info.local_rank % torch.cuda.device_count())
        if config.cache_views == "auto":
            raise ConfigError(
                "With --parallel, --cache-views must be a number, because auto depends on one machine's "
                "memory, but auto was given; give the number of epochs, for instance."
            )
        if mode == "runs":
            return _train_runs(config, out, info, resume, stop, reporter) or {"runs": []}
        return _train_data_parallel(config, out, info, resume, stop, reporter)
    except FinetuneError as error:
        _tell_torchrun(str(error))
        raise


def _on_gpu(config: ExperimentConfig) -> bool:
    return config.device != "cpu" and torch.cuda.is_available()


def _tell_torchrun(message: str) -> None:
    """Have torchrun's report of the failed worker show the message instead of a link to its docs."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file:
        detail = {"message": message, "extraInfo": {"timestamp": str(int(time.time()))}}
        Path(file).write_text(json.dumps({"message": detail}), "utf-8")


def _train_runs(
    config: ExperimentConfig, out: Path, info: LaunchInfo, resume: bool, stop: StopRequest, reporter: Reporter
) -> Document | None:
    if resume:
        raise ConfigError(
            "With --parallel runs the same command resumes a run, so --resume must be left out, but "
            "it was given; repeat the command that started the run."
        )
    if config.tune and info.world_size > 1 and not info.connected:
        raise ConfigError(
            "--tune with --parallel runs needs processes that can reach one another, because they share the "
            "trials, but MASTER_ADDR is not set; start them with torchrun."
        )

    def train(folder: Path, shard: Shard, resume: bool, peers: Peers | None) -> Document:
        return run_experiment(config, folder, reporter, stop, resume, shard, peers=peers)

    return train_shard(config, out, info, reporter, stop, train)


def _train_data_parallel(
    config: ExperimentConfig, out: Path, info: LaunchInfo, resume: bool, stop: StopRequest, reporter: Reporter
) -> Document:
    if resume and config.processes != info.world_size:
        raise ConfigError(
            "A run with --parallel data must be resumed with the same number of processes, but it started "
            f"with {config.processes} and there are {info.world_size}; start {config.processes}."
        )
    with connect(info) as group:
        if group is None:
            raise ConfigError(
                "--parallel data needs processes that can reach one another, but MASTER_ADDR is not set; "
                "start them with torchrun."
            )
        command = f"--parallel data --resume {quote(str(out))}"
        with peer_errors(f"resume with the same number of processes and {command}"):
            return run_experiment(
                dataclasses.replace(config, processes=info.world_size),
                out,
                reporter,
                stop,
                resume,
                world=DataParallel(group, info.local_world_size, _on_gpu(config)),
            )


def train_shard(
    config: ExperimentConfig, out: Path, info: LaunchInfo, reporter: Reporter, stop: StopRequest, train: Train
) -> Document | None:
    """Train the runs assigned to this process, and merge the shards once all processes are done.

    Args:
        config: the whole experiment.
        out: folder of the shards, and run folder of the merged results.
        info: which process this is.
        reporter: receives progress messages.
        stop: asked whether to end early.
        train: does the training.

    Returns:
        If the processes are connected, the merged results on rank 0 and None on the others; else the results
        of this process's shard, or None if it has none.

    Raises:
        FinetuneError: this process or another one failed; what was trained is kept.
        Stopped: a signal came.
    """
    groups = trained_together(config)
    shards = [shard_folder(out, rank) for rank in range(min(info.world_size, len(groups)))]
    # A process without runs has a shard too if it has trials.
    all_shards = [shard_folder(out, rank) for rank in range(info.world_size)] if config.tune else shards

    def train_own(peers: Peers | None) -> Document | None:
        shard = Shard(tuple(chain.from_iterable(assign(groups, info))), info.local_world_size)
        folder = RunFolder(shard_folder(out, info.rank))
        _require_same_assignment(out, all_shards, folder, shard)
        if shard.pairs:
            return train(folder.path, shard, folder.config_file.is_file(), peers)
        if config.tune:  # it takes part in the trials; all others remember them
            train(folder.path, shard, folder.config_file.is_file(), peers)
            shutil.rmtree(folder.path)
        reporter.say(f"Process {info.rank} has nothing to train: there is work for {len(groups)} processes.")
        return None

    def merge(_: Peers | None) -> Document | None:
        return merge_runs(shards, out, reporter) if info.rank == 0 else None

    with connect(info) as group:
        record, peers = None, None if group is None else Peers(info, group, stop)
        # All wait after the merge too: launchers stop the others once a process exits with an error.
        for step in (train_own, merge) if info.connected else (train_own,):
            error: FinetuneError | None = None
            try:
                record = step(peers)
            except PeerError:
                raise  # all have been told
            except FinetuneError as caught:
                error = caught
            failures = gather_failures(group, str(error) if error else None, stop)
            if error is not None:
                raise error
            raise_failures(failures)
    return record


def _require_same_assignment(out: Path, shards: list[Path], folder: RunFolder, shard: Shard) -> None:
    """Find out before training what would keep the shards from being merged.

    Raises:
        RunFolderError: `out` has other content, or shards of another number of processes, which divided the
            runs differently.
    """
    content = {path.name for path in out.iterdir()} if out.is_dir() else set()
    present = {name for name in content if re.fullmatch("shard-[0-9]+", name)}
    if content - present and not shards[0].exists():
        raise RunFolderError(
            f"--out must name a new folder or one from an earlier --parallel runs, but {out} has other "
            "content; name another one."
        )
    before = folder.shard() if folder.config_file.is_file() else None
    if (before and before.pairs != shard.pairs) or present - {path.name for path in shards}:
        raise RunFolderError(
            f"Shards must be resumed with the same number of processes, but those in {out} were started "
            "with a different number; start that many, or name another folder with --out."
        )
