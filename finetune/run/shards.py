"""Several processes, one experiment: who trains which pairs, where, and how they end together.

Each pair of variant and seed is trained by one process, as it would be alone, in a run folder of its own. The
processes exchange nothing while they train; where a launcher connects them, they wait for one another at the
end and the first joins the folders.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console

from finetune.config.experiment import ExperimentConfig
from finetune.distributed.launcher import Ranks, deal, ranks
from finetune.distributed.world import DataParallel, SingleProcess
from finetune.errors import ConfigError, FinetuneError, RunFolderError
from finetune.run.experiment import run_experiment
from finetune.run.merge import merge_runs
from finetune.system.console import Reporter
from finetune.system.signals import StopRequest

MEETING = timedelta(minutes=10)
"""The processes must find one another within this time."""

WAITING = timedelta(days=7)
"""At the end they wait this long: they end hours apart."""

POLL_SECONDS = 0.2
MESSAGE_LETTERS = 1000
MESSAGE_BYTES = 12 * MESSAGE_LETTERS + 2
"""JSON spells a letter in at most two escapes of six bytes, and adds quotation marks."""

LOST = ("onnection closed by peer", "onnection reset by peer", "NCCL", "gloo", "Broken pipe")
"""What a RuntimeError says when another process has gone: gloo's and NCCL's words."""

Pair = tuple[str, int]
"""A variant's name and a seed."""

Train = Callable[[Path, list[Pair], bool], dict[str, Any]]
"""Trains pairs in a run folder, going on if told so; returns the results."""


class ParallelError(FinetuneError):
    """Processes that should work together cannot, or not all of them ended well."""


def shard_folder(out: Path, rank: int) -> Path:
    """The run folder of one process."""
    return out / f"shard-{rank:03d}"


@contextmanager
def connect(ranks: Ranks) -> Iterator[dist.ProcessGroup | None]:
    """Connect the processes while the job lasts; None where they cannot reach one another.

    From the start, not when they first need it: the connections of a process that dies close, and so the
    others hear of it whenever they next wait for it.

    Raises:
        ParallelError: they do not find one another.
    """
    if not ranks.connected:
        yield None
        return
    try:
        # Two groups, for two patiences: what never arrives must not be waited for as long as what trains.
        dist.init_process_group("gloo", timeout=MEETING, rank=ranks.rank, world_size=ranks.world)
        group = dist.new_group(timeout=WAITING)
        assert isinstance(group, dist.ProcessGroup)  # noqa: S101 - every process is in it
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ParallelError(
            f"The {ranks.world} processes must find one another within {MEETING.seconds // 60} minutes, but "
            f"process {ranks.rank} did not ({reason}); see what the others say, and check MASTER_ADDR and "
            "MASTER_PORT."
        ) from error
    yield group
    # Not after an exception: it waits for what is under way, as long as `WAITING`.
    dist.destroy_process_group()


@contextmanager
def dead_peers(way_on: str) -> Iterator[None]:
    """Turn what PyTorch raises where a connected process has died into a sentence with the way on."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(word in str(error) for word in LOST):
            raise
        raise ParallelError(
            "Every process must live to the end, but one has died (its launcher says which); what was "
            f"trained is kept: {way_on}."
        ) from error


def gather(group: dist.ProcessGroup | None, failure: str | None, stop: StopRequest) -> list[str | None]:
    """Wait until every process is here, and tell each whether the others failed.

    Args:
        group: of `connect`.
        failure: why this one failed, if it did; its first letters are told.
        stop: asked whether to end early.

    Returns:
        What went wrong by rank; only this process's own where they are not connected.

    Raises:
        ParallelError: one has died.
    """
    if group is None:
        return [failure]
    text = json.dumps(failure and failure[:MESSAGE_LETTERS]).encode()
    own = torch.frombuffer(bytearray(text.ljust(MESSAGE_BYTES)), dtype=torch.uint8)
    every = [torch.empty_like(own) for _ in range(group.size())]
    with dead_peers("start the same command again and it goes on"):
        work = dist.all_gather(every, own, group=group, async_op=True)
        assert work is not None  # noqa: S101 - an asynchronous one always is
        while not work.is_completed():  # waiting in C++ would let no signal through
            stop.check()
            time.sleep(POLL_SECONDS)
        work.wait()
    return [json.loads(bytes(message.tolist())) for message in every]


def train_parallel(
    mode: str, config: ExperimentConfig, out: Path, resume: bool, stop: StopRequest
) -> dict[str, Any]:
    """Train as one of several processes.

    Args:
        mode: `runs`: each trains its share of the variants and seeds; `data`: all share each batch.
        config: the whole experiment.
        out: folder of the shards, or run folder.
        resume: go on where the run folder stands; with `runs` the same command does so by itself.
        stop: asked whether to end early.

    Returns:
        The results as far as this process has them.

    Raises:
        FinetuneError: this process or another one failed; what was trained is kept.
        Stopped: a signal came.
    """
    place = ranks()
    if config.device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
    if config.cache_views == "auto":
        raise ConfigError(
            "--cache-views auto asks one machine's memory, so with --parallel it must be a number, but auto "
            "was given; name the number of epochs, for instance."
        )
    if mode == "runs":
        if resume:
            raise ConfigError(
                "With --parallel runs the same command goes on with what it began, so --resume cannot be "
                "given, but it was; start the command that began the run."
            )
        reporter = TaggedReporter(place.rank)

        def train(folder: Path, pairs: list[Pair], resume: bool) -> dict[str, Any]:
            world = SingleProcess(place.local_world)
            return run_experiment(config, folder, reporter, stop, resume, pairs, world)

        return train_shard(config, out, place, reporter, stop, train) or {"runs": []}
    if resume and config.processes != place.world:
        raise ConfigError(
            f"A run that shares each batch must be gone on with by as many processes as began it, but "
            f"{config.processes} did and there are {place.world}; start as many."
        )
    with connect(place) as group:
        if group is None:
            raise ConfigError(
                "--parallel data needs processes that can reach one another, but MASTER_ADDR is not set; "
                "start them with torchrun."
            )
        with dead_peers(f"go on with as many processes and --parallel data --resume {out}"):
            return run_experiment(
                dataclasses.replace(config, processes=place.world),
                out,
                Reporter() if place.rank == 0 else Reporter(Console(quiet=True)),
                stop,
                resume,
                world=DataParallel(group, place.local_world),
            )


def train_shard(
    config: ExperimentConfig, out: Path, ranks: Ranks, reporter: Reporter, stop: StopRequest, train: Train
) -> dict[str, Any] | None:
    """Train this process's share of an experiment, and join the shards once all are done.

    Args:
        config: the whole experiment.
        out: folder of the shards, and run folder of what is joined.
        ranks: which process this is.
        reporter: told what happens.
        stop: asked whether to end early.
        train: does the training.

    Returns:
        What this process answers for: the first of connected ones for the joined results, the others for
        nothing; one that is not connected for its shard's, or nothing without a share.

    Raises:
        FinetuneError: this process or another one failed; what was trained is kept.
        Stopped: a signal came.
    """
    pairs = [(variant.name, seed) for seed in config.seed_list for variant in config.variants]
    shards = [shard_folder(out, rank) for rank in range(min(ranks.world, len(pairs)))]
    record: dict[str, Any] | None = None

    def train_share() -> None:
        nonlocal record
        share, folder = deal(pairs, ranks), shard_folder(out, ranks.rank)
        _require_same_deal(out, shards, folder, share)
        if share:
            record = train(folder, share, (folder / "config.toml").is_file())
        else:
            reporter.say(f"Process {ranks.rank} has nothing to train: there are {len(pairs)} runs.")

    def join() -> None:
        nonlocal record
        if ranks.connected and ranks.rank == 0:
            record = merge_runs(shards, out, reporter)

    with connect(ranks) as group:
        for step in (train_share, join):
            error: FinetuneError | None = None
            try:
                step()
            except FinetuneError as caught:
                error = caught
            # All wait after joining too: launchers end the rest once one process ends with an error.
            failures = gather(group, str(error) if error else None, stop)
            if error is not None:
                raise error
            for rank, failure in enumerate(failures):
                if failure is not None:
                    raise ParallelError(
                        f"Every process must end well before the runs are joined, but process {rank} "
                        f"did not: {failure.rstrip('.')}; put that right and start the same command "
                        "again: it goes on."
                    )
    return record if ranks.rank == 0 or not ranks.connected else None


def _require_same_deal(out: Path, shards: list[Path], folder: Path, share: list[Pair]) -> None:
    """Find out before training what would keep the shards from being joined.

    Raises:
        RunFolderError: `out` has content of another kind, or shards of another number of processes, which
            deals otherwise and would train again what lies in other shards.
    """
    content = {path.name for path in out.iterdir()} if out.is_dir() else set()
    of_shards = {name for name in content if re.fullmatch("shard-[0-9]+", name)}
    if content - of_shards and not shards[0].exists():
        raise RunFolderError(
            f"--out must name a new folder or one that --parallel runs began, but {out} has other content; "
            "name another one."
        )
    try:
        ended = json.loads((folder / "results.json").read_text("utf-8"))["runs"]
        foreign = {(run["variant"], run["seed"]) for run in ended} - set(share)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        foreign = set()  # nothing has ended, or going on will say what is wrong
    if foreign or of_shards - {shard.name for shard in shards}:
        raise RunFolderError(
            f"Shards must be gone on with by as many processes as began them, but {out} has those of another "
            "number; start that many, or name another folder with --out."
        )


class TaggedReporter(Reporter):
    """Says which process speaks, where several share a terminal or a log; draws no bars over one another.

    Args:
        rank: of the process.
    """

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def say(self, text: str) -> None:
        """One line, with the process's number before it."""
        super().say(f"[{self.rank}] {text}")

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Callable[[int], None]]:  # noqa: ARG002 - as a reporter's
        """No bar."""
        yield lambda _: None
