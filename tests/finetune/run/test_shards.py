"""Who trains what, and how several processes end together: real ones where it is about their ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from rich.console import Console

from finetune.config.experiment import STANDARD_VARIANTS
from finetune.distributed.launcher import Ranks, deal, ranks
from finetune.errors import ConfigError, FinetuneError, RunFolderError
from finetune.run import shards as parallel
from finetune.run.shards import ParallelError, TaggedReporter, shard_folder, train_shard
from finetune.system.signals import Stopped, StopRequest
from tests.builders.config import tiny_config
from tests.builders.runs import RecordingReporter
from tests.machine import free_port

A, B, C = STANDARD_VARIANTS
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
MASTER = {"MASTER_ADDR": "host", "MASTER_PORT": "29500"}
SRUN = {"SLURM_PROCID": "5", "SLURM_NTASKS": "6", "SLURM_LOCALID": "1"}
ARRAY = {"SLURM_ARRAY_TASK_ID": "12", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_COUNT": "4"}
INDEXED = {"JOB_COMPLETION_INDEX": "7", "WORLD_SIZE": "9"}


class TestRanks:
    @pytest.mark.parametrize(
        ("environ", "expected"),
        [
            (TORCHRUN | MASTER, Ranks(3, 8, 1, 2, connected=True)),
            (TORCHRUN, Ranks(3, 8, 1, 2)),
            ({"RANK": "0", "WORLD_SIZE": "1"}, Ranks(0, 1)),
            (SRUN, Ranks(5, 6, 1)),
            (SRUN | MASTER, Ranks(5, 6, 1, connected=True)),
            (ARRAY, Ranks(2, 4)),
            (ARRAY | MASTER, Ranks(2, 4)),
            (ARRAY | {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_LOCALID": "0"}, Ranks(2, 4)),
            (INDEXED, Ranks(7, 9)),
            (TORCHRUN | SRUN | ARRAY | INDEXED | {"WORLD_SIZE": "8"}, Ranks(3, 8, 1, 2)),
        ],
    )
    def test_of_each_launcher(self, environ: dict[str, str], expected: Ranks) -> None:
        assert ranks(environ) == expected

    @pytest.mark.parametrize(
        ("environ", "message"),
        [
            (
                {},
                "RANK must be a whole number for that, but it is not set; start the processes with torchrun",
            ),
            ({"WORLD_SIZE": "9"}, "RANK must .* not set"),
            ({"RANK": "0"}, "WORLD_SIZE must .* not set"),
            (TORCHRUN | {"WORLD_SIZE": "many"}, "WORLD_SIZE must .* is 'many'"),
            (TORCHRUN | {"RANK": "-1"}, "RANK must .* is '-1'"),
            (TORCHRUN | {"RANK": "9" * 5000}, "RANK must"),
            (TORCHRUN | {"RANK": "8"}, "says 8 of 8"),
            ({"RANK": "0", "WORLD_SIZE": "0"}, "says 0 of 0"),
            (TORCHRUN | {"LOCAL_RANK": ""}, "LOCAL_RANK must .* is ''"),
            ({k: v for k, v in TORCHRUN.items() if k != "LOCAL_WORLD_SIZE"}, "LOCAL_WORLD_SIZE must"),
            (TORCHRUN | {"MASTER_ADDR": "host"}, "MASTER_PORT must .* not set"),
            ({"SLURM_NTASKS": "2"}, "SLURM_PROCID must"),
            ({"SLURM_ARRAY_TASK_ID": "1"}, "SLURM_ARRAY_TASK_MIN must"),
            (ARRAY | {"SLURM_ARRAY_TASK_ID": "16"}, "says 6 of 4"),
            ({"JOB_COMPLETION_INDEX": "1"}, "WORLD_SIZE must"),
        ],
    )
    def test_that_make_no_sense(self, environ: dict[str, str], message: str) -> None:
        with pytest.raises(ConfigError, match=message) as caught:
            ranks(environ)
        assert str(caught.value).endswith(".")


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7, 9])
def test_every_pair_is_dealt_once(world: int) -> None:
    pairs = [(name, seed) for seed in range(2) for name in "abc"]
    dealt = [deal(pairs, Ranks(rank, world)) for rank in range(world)]
    assert sorted(pair for share in dealt for pair in share) == sorted(pairs)
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


def test_a_process_of_eight_gets_each_variant() -> None:
    pairs = [(name, seed) for seed in range(8) for name in "abc"]
    for rank in range(8):
        assert sorted(name for name, _ in deal(pairs, Ranks(rank, 8))) == ["a", "b", "c"]


def test_who_speaks_is_said_and_nobody_draws(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = TaggedReporter(3)
    reporter.console = Console(force_terminal=True, highlight=False)
    reporter.say("A seed 0")
    with reporter.bar("A", 10) as advance:
        advance(10)
    assert capsys.readouterr().out == "[3] A seed 0\n"


def test_other_errors_are_not_taken_for_dead_processes() -> None:
    with pytest.raises(RuntimeError, match="size mismatch"), parallel.dead_peers("go on"):
        raise RuntimeError("size mismatch")
    with pytest.raises(ParallelError, match=r": go on\.$"), parallel.dead_peers("go on"):
        raise torch.distributed.DistBackendError("NCCL error: remote process exited")


class TestShards:
    """One process after another; `train` leaves the marks of a run without training."""

    config = tiny_config(variants=(A, C), seeds=2)

    def shard(self, out: Path, ranks: Ranks, **options: Any) -> tuple[list[Any], RecordingReporter]:
        calls: list[Any] = []
        reporter = RecordingReporter()

        def train(folder: Path, pairs: list[tuple[str, int]], resume: bool) -> dict[str, Any]:
            calls.append((folder, pairs, resume))
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.toml").touch()
            ended = ", ".join(f'{{"variant": "{name}", "seed": {seed}}}' for name, seed in pairs)
            (folder / "results.json").write_text(f'{{"runs": [{ended}]}}')
            return {"runs": pairs}

        config = options.get("config", self.config)
        record = train_shard(config, out, ranks, reporter, StopRequest(), options.get("train", train))
        assert record == ({"runs": calls[0][1]} if calls else None)
        return calls, reporter

    def test_begin_and_then_go_on(self, tmp_path: Path) -> None:
        for resumed in (False, True):
            for rank, pairs in ((0, [("A", 0), ("A", 1)]), (1, [("C", 0), ("C", 1)])):
                calls, _ = self.shard(tmp_path / "out", Ranks(rank, 2))
                assert calls == [(shard_folder(tmp_path / "out", rank), pairs, resumed)]
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["shard-000", "shard-001"]

    def test_more_processes_than_runs(self, tmp_path: Path) -> None:
        calls, reporter = self.shard(tmp_path / "out", Ranks(4, 6))
        assert calls == []
        assert reporter.said == ["Process 4 has nothing to train: there are 4 runs."]
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(("before", "now"), [(4, 2), (2, 4), (1, 2), (3, 2)])
    def test_of_another_number_of_processes_are_left_alone(
        self, tmp_path: Path, before: int, now: int
    ) -> None:
        for rank in range(before):
            self.shard(tmp_path, Ranks(rank, before))
        with pytest.raises(RunFolderError, match="by as many processes as began them"):
            self.shard(tmp_path, Ranks(0, now))

    def test_a_folder_with_other_content(self, tmp_path: Path) -> None:
        (tmp_path / "config.toml").touch()
        for rank in range(2):
            with pytest.raises(RunFolderError, match=r"but .* has other content; name another one"):
                self.shard(tmp_path, Ranks(rank, 2))

    def test_what_was_joined_before_does_not_hinder(self, tmp_path: Path) -> None:
        self.shard(tmp_path, Ranks(0, 2))
        (tmp_path / "config.toml").touch()
        assert len(self.shard(tmp_path, Ranks(1, 2))[0]) == 1

    def test_a_failure_stays_what_it_is(self, tmp_path: Path) -> None:
        def train(*_: object) -> dict[str, Any]:
            raise RunFolderError("Full.")

        with pytest.raises(RunFolderError, match=r"^Full\.$"):
            self.shard(tmp_path, Ranks(0, 2), train=train)


Work = Callable[[int], object]
"""What a process does in place of training, given its number."""


class Processes:
    """Connected processes with one share each; what they say, and how they end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.children: list[int] = []
        self.codes: dict[int, int] = {}

    def start(self, *works: Work, world: int | None = None) -> None:
        environ = {"WORLD_SIZE": str(world or len(works)), "MASTER_ADDR": "127.0.0.1"}
        environ["MASTER_PORT"] = str(free_port())
        for rank, work in enumerate(works):
            child = os.fork()
            if child == 0:
                self._run(work, {**environ, "RANK": str(rank)})
            self.children.append(child)

    def _run(self, work: Work, environ: dict[str, str]) -> NoReturn:
        """As the command line ends: one sentence and an exit code."""
        os.environ.update(environ)
        code, who, stop = 1, ranks(), StopRequest()
        said = (self.folder / f"said{who.rank}").open("w")
        config = tiny_config(variants=(A, B, C)[: who.world])
        try:
            stop.install()
            train_shard(
                config,
                self.folder / "run",
                who,
                RecordingReporter(),
                stop,
                lambda *_: {"work": work(who.rank)},
            )
            code = 0
        except FinetuneError as error:
            said.write(str(error))
            code = 2
        except Stopped as stopped:
            code = 128 + stopped.number
        except BaseException:
            said.write(traceback.format_exc())
        finally:
            said.close()
            os._exit(code)

    def mark(self, name: str) -> None:
        (self.folder / name).touch()

    def wait_for(self, name: str) -> None:
        while not (self.folder / name).exists():
            time.sleep(0.01)

    def end_of(self, rank: int, seconds: float = 30) -> tuple[int, str]:
        """Exit code and what was said; a process that does not end is a failure."""
        limit = time.monotonic() + seconds
        while rank not in self.codes:
            child, status = os.waitpid(self.children[rank], os.WNOHANG)
            if child:
                self.codes[rank] = os.waitstatus_to_exitcode(status)
            assert time.monotonic() < limit, f"process {rank} does not end"
            time.sleep(0.01)
        return self.codes[rank], (self.folder / f"said{rank}").read_text()

    def close(self) -> None:
        for rank, child in enumerate(self.children):
            if rank not in self.codes:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Processes]:
    for name in [n for n in os.environ if n.startswith(("SLURM_", "LOCAL_", "TORCHELASTIC_"))]:
        monkeypatch.delenv(name)
    running = Processes(tmp_path)

    def joined(shards: list[Path], *_: object) -> dict[str, Any]:
        running.mark(f"joined{len(shards)}")
        return {"joined": len(shards)}

    monkeypatch.setattr(parallel, "merge_runs", joined)
    yield running
    running.close()


def nothing(_: int) -> None:
    """Train well, and at once."""


def killed(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


DIED = (
    "Every process must live to the end, but one has died (its launcher says which); what was trained is "
    "kept: start the same command again and it goes on."
)


class TestConnected:
    def test_the_first_joins_once_all_have_ended(self, processes: Processes, tmp_path: Path) -> None:
        def slow(_: int) -> None:
            time.sleep(0.3)
            assert not (tmp_path / "joined3").exists()

        processes.start(nothing, slow, nothing)
        assert [processes.end_of(rank) for rank in range(3)] == [(0, "")] * 3
        assert (tmp_path / "joined3").exists()

    def test_one_that_fails_is_told_to_all(self, processes: Processes, tmp_path: Path) -> None:
        def fails(_: int) -> None:
            raise RunFolderError("The disk is full; make room.")

        processes.start(nothing, fails)
        assert processes.end_of(1) == (2, "The disk is full; make room.")
        assert processes.end_of(0) == (
            2,
            "Every process must end well before the runs are joined, but process 1 did not: The disk is "
            "full; make room; put that right and start the same command again: it goes on.",
        )
        assert not list(tmp_path.glob("joined*"))

    def test_joining_that_fails_is_told_to_all(
        self, processes: Processes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object) -> None:
            raise RunFolderError("They differ.")

        monkeypatch.setattr(parallel, "merge_runs", broken)
        processes.start(nothing, nothing)
        assert processes.end_of(0) == (2, "They differ.")
        assert "process 0 did not: They differ; put that right" in processes.end_of(1)[1]

    def test_a_failure_of_any_length_and_script(self, processes: Processes) -> None:
        def fails(_: int) -> None:
            raise RunFolderError("\U0001f600" * 5000)

        processes.start(nothing, fails)
        assert "\U0001f600" * parallel.MESSAGE_LETTERS + "; put" in processes.end_of(0)[1]

    def test_one_that_is_killed_while_another_waits(self, processes: Processes) -> None:
        def later(_: int) -> None:
            processes.wait_for("ready")
            time.sleep(0.3)
            killed(1)

        processes.start(lambda _: processes.mark("ready"), later)
        assert processes.end_of(0) == (2, DIED)

    def test_one_that_is_killed_before_another_waits(self, processes: Processes) -> None:
        processes.start(lambda _: processes.wait_for("gone"), killed)
        assert processes.end_of(1)[0] == -signal.SIGKILL
        processes.mark("gone")
        assert processes.end_of(0) == (2, DIED)

    def test_the_first_that_is_killed(self, processes: Processes) -> None:
        """It holds the store through which they met."""
        processes.start(killed, nothing, nothing)
        assert [processes.end_of(rank) for rank in (1, 2)] == [(2, DIED)] * 2

    def test_a_signal_ends_one_that_waits(self, processes: Processes) -> None:
        processes.start(lambda _: processes.mark("ready"), lambda _: processes.wait_for("never"))
        processes.wait_for("ready")
        time.sleep(0.5)
        os.kill(processes.children[0], signal.SIGTERM)
        assert processes.end_of(0) == (143, "")

    def test_one_that_never_comes(self, processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parallel, "MEETING", timedelta(seconds=0.5))
        processes.start(nothing, world=2)
        code, said = processes.end_of(0)
        assert code == 2
        assert "2 processes must find one another" in said
        assert said.endswith("check MASTER_ADDR and MASTER_PORT.")


TRAINS = """
import os, sys, signal, time
from finetune.cli import app as cli
from finetune.run import shards as parallel
from finetune.config.presets import load_preset
from finetune.distributed.launcher import ranks
from finetune.system.console import Reporter
from finetune.errors import FinetuneError
from finetune.system.signals import Stopped, StopRequest
from pathlib import Path
def train(folder, pairs, resume):
    stop_at_rank_1()
    return {}
def stop_at_rank_1():
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    with stop.deferred():
        while True:
            stop.check()
            time.sleep(0.05)
stop = StopRequest()
stop.install()
try:
    parallel.train_shard(load_preset("smoke"), Path(sys.argv[1]), ranks(), Reporter(), stop, train)
except Stopped as stopped:
    print("Interrupted.", flush=True)
    sys.exit(128 + stopped.number)
"""


@pytest.mark.slow
def test_torchrun_stops_the_others_of_one_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAINS)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]
    words = [*torchrun, str(free_port()), tmp_path / "train.py", tmp_path / "run"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert done.stdout == "Interrupted.\n"
    assert "Signal 9 (SIGKILL)" in done.stderr
    assert "Root Cause" in done.stderr
