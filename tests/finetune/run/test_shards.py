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
from finetune.distributed import group
from finetune.distributed.group import ParallelError, peer_errors
from finetune.distributed.launcher import LaunchInfo, assign, launch_info
from finetune.errors import ConfigError, FinetuneError, RunFolderError
from finetune.run import shards as shards_module
from finetune.run.folder import RunFolder
from finetune.run.records import Shard
from finetune.run.shards import shard_folder, train_shard
from finetune.system.reporters import TaggedReporter
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


class TestLaunchInfo:
    @pytest.mark.parametrize(
        ("environ", "expected"),
        [
            (TORCHRUN | MASTER, LaunchInfo(3, 8, 1, 2, connected=True)),
            (TORCHRUN, LaunchInfo(3, 8, 1, 2)),
            ({"RANK": "0", "WORLD_SIZE": "1"}, LaunchInfo(0, 1)),
            (SRUN, LaunchInfo(5, 6, 1)),
            (SRUN | MASTER, LaunchInfo(5, 6, 1, connected=True)),
            (ARRAY, LaunchInfo(2, 4)),
            (ARRAY | MASTER, LaunchInfo(2, 4)),
            (ARRAY | {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_LOCALID": "0"}, LaunchInfo(2, 4)),
            (INDEXED, LaunchInfo(7, 9)),
            (TORCHRUN | SRUN | ARRAY | INDEXED | {"WORLD_SIZE": "8"}, LaunchInfo(3, 8, 1, 2)),
        ],
    )
    def test_of_each_launcher(self, environ: dict[str, str], expected: LaunchInfo) -> None:
        assert launch_info(environ) == expected

    @pytest.mark.parametrize(
        ("environ", "message"),
        [
            (
                {},
                "RANK must be a whole number, but it is not set; start the processes with torchrun",
            ),
            ({"WORLD_SIZE": "9"}, "RANK must .* not set"),
            ({"RANK": "0"}, "WORLD_SIZE must .* not set"),
            (TORCHRUN | {"WORLD_SIZE": "many"}, "WORLD_SIZE must .* is 'many'"),
            (TORCHRUN | {"RANK": "-1"}, "RANK must .* is '-1'"),
            (TORCHRUN | {"RANK": "9" * 5000}, "RANK must"),
            (TORCHRUN | {"RANK": "8"}, "says rank 8 of 8"),
            ({"RANK": "0", "WORLD_SIZE": "0"}, "says rank 0 of 0"),
            (TORCHRUN | {"LOCAL_RANK": ""}, "LOCAL_RANK must .* is ''"),
            ({k: v for k, v in TORCHRUN.items() if k != "LOCAL_WORLD_SIZE"}, "LOCAL_WORLD_SIZE must"),
            (TORCHRUN | {"MASTER_ADDR": "host"}, "MASTER_PORT must .* not set"),
            ({"SLURM_NTASKS": "2"}, "SLURM_PROCID must"),
            ({"SLURM_ARRAY_TASK_ID": "1"}, "SLURM_ARRAY_TASK_MIN must"),
            (ARRAY | {"SLURM_ARRAY_TASK_ID": "16"}, "says rank 6 of 4"),
            ({"JOB_COMPLETION_INDEX": "1"}, "WORLD_SIZE must"),
        ],
    )
    def test_that_make_no_sense(self, environ: dict[str, str], message: str) -> None:
        with pytest.raises(ConfigError, match=message) as caught:
            launch_info(environ)
        assert str(caught.value).endswith(".")


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7, 9])
def test_every_pair_is_assigned_once(world_size: int) -> None:
    pairs = [(name, seed) for seed in range(2) for name in "abc"]
    assigned = [assign(pairs, LaunchInfo(rank, world_size)) for rank in range(world_size)]
    assert sorted(pair for own in assigned for pair in own) == sorted(pairs)
    assert max(map(len, assigned)) - min(map(len, assigned)) <= 1


def test_a_process_of_eight_gets_each_variant() -> None:
    pairs = [(name, seed) for seed in range(8) for name in "abc"]
    for rank in range(8):
        assert sorted(name for name, _ in assign(pairs, LaunchInfo(rank, 8))) == ["a", "b", "c"]


def test_lines_begin_with_the_rank_and_no_bar_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = TaggedReporter(3)
    reporter.console = Console(force_terminal=True, highlight=False)
    reporter.say("A seed 0")
    with reporter.bar("A", 10) as advance:
        advance(10)
    assert capsys.readouterr().out == "[3] A seed 0\n"


def test_other_errors_are_not_taken_for_dead_processes() -> None:
    with pytest.raises(RuntimeError, match="size mismatch"), peer_errors("resume"):
        raise RuntimeError("size mismatch")
    with pytest.raises(ParallelError, match=r": resume\.$"), peer_errors("resume"):
        raise torch.distributed.DistBackendError("NCCL error: remote process exited")


class TestShards:
    """One process after another; `train` writes what begins a run folder, without training."""

    config = tiny_config(variants=(A, C), seeds=2)

    def shard(self, out: Path, info: LaunchInfo, **options: Any) -> tuple[list[Any], RecordingReporter]:
        calls: list[Any] = []
        reporter = RecordingReporter()

        def train(path: Path, shard: Shard, resume: bool, _peers: object) -> Any:
            calls.append((path, shard.pairs, resume))
            if not resume:
                RunFolder(path).begin(self.config, shard)
            return {"runs": shard.pairs}

        record = train_shard(self.config, out, info, reporter, StopRequest(), options.get("train", train))
        assert record == ({"runs": calls[0][1]} if calls else None)
        return calls, reporter

    def test_the_same_command_resumes(self, tmp_path: Path) -> None:
        for resumed in (False, True):
            for rank, pairs in ((0, (("A", 0), ("A", 1))), (1, (("C", 0), ("C", 1)))):
                calls, _ = self.shard(tmp_path / "out", LaunchInfo(rank, 2))
                assert calls == [(shard_folder(tmp_path / "out", rank), pairs, resumed)]
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["shard-000", "shard-001"]

    def test_more_processes_than_runs(self, tmp_path: Path) -> None:
        calls, reporter = self.shard(tmp_path / "out", LaunchInfo(4, 6))
        assert calls == []
        assert reporter.said == ["Process 4 has nothing to train: there is work for 4 processes."]
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(("before", "now"), [(4, 2), (2, 4), (1, 2), (3, 2)])
    def test_shards_of_another_number_of_processes_are_left_alone(
        self, tmp_path: Path, before: int, now: int
    ) -> None:
        for rank in range(before):
            self.shard(tmp_path, LaunchInfo(rank, before))
        with pytest.raises(RunFolderError, match="must be resumed with the same number of processes"):
            self.shard(tmp_path, LaunchInfo(0, now))

    def test_a_folder_with_other_content(self, tmp_path: Path) -> None:
        (tmp_path / "config.toml").touch()
        for rank in range(2):
            with pytest.raises(RunFolderError, match=r"but .* has other content; name another one"):
                self.shard(tmp_path, LaunchInfo(rank, 2))

    def test_merged_results_beside_the_shards_are_no_obstacle(self, tmp_path: Path) -> None:
        self.shard(tmp_path, LaunchInfo(0, 2))
        (tmp_path / "config.toml").touch()
        assert len(self.shard(tmp_path, LaunchInfo(1, 2))[0]) == 1

    def test_a_failure_stays_what_it_is(self, tmp_path: Path) -> None:
        def train(*_: object) -> dict[str, Any]:
            raise RunFolderError("Full.")

        with pytest.raises(RunFolderError, match=r"^Full\.$"):
            self.shard(tmp_path, LaunchInfo(0, 2), train=train)


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
        code, info, stop = 1, launch_info(), StopRequest()
        said = (self.folder / f"said{info.rank}").open("w")
        config = tiny_config(variants=(A, B, C)[: info.world_size])
        try:
            stop.install()
            train_shard(
                config,
                self.folder / "run",
                info,
                RecordingReporter(),
                stop,
                lambda *_: {"work": work(info.rank)},
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

    def merge_runs(shards: list[Path], *_: object) -> dict[str, Any]:
        running.mark(f"merged{len(shards)}")
        return {"merged": len(shards)}

    monkeypatch.setattr(shards_module, "merge_runs", merge_runs)
    yield running
    running.close()


def nothing(_: int) -> None:
    """Train well, and at once."""


def killed(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


DIED = (
    "A worker process died (the launcher's output says which); finished work is kept: start the same command "
    "again to resume."
)


class TestConnected:
    def test_rank_0_merges_once_all_have_finished(self, processes: Processes, tmp_path: Path) -> None:
        def slow(_: int) -> None:
            time.sleep(0.3)
            assert not (tmp_path / "merged3").exists()

        processes.start(nothing, slow, nothing)
        assert [processes.end_of(rank) for rank in range(3)] == [(0, "")] * 3
        assert (tmp_path / "merged3").exists()

    def test_a_failing_process_is_reported_to_all(self, processes: Processes, tmp_path: Path) -> None:
        def fails(_: int) -> None:
            raise RunFolderError("The disk is full; make room.")

        processes.start(nothing, fails)
        assert processes.end_of(1) == (2, "The disk is full; make room.")
        assert processes.end_of(0) == (
            2,
            "Process 1 failed, so the runs are not merged: The disk is full; make room; fix that and start "
            "the same command again to resume.",
        )
        assert not list(tmp_path.glob("merged*"))

    def test_a_failing_merge_is_reported_to_all(
        self, processes: Processes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object) -> None:
            raise RunFolderError("They differ.")

        monkeypatch.setattr(shards_module, "merge_runs", broken)
        processes.start(nothing, nothing)
        assert processes.end_of(0) == (2, "They differ.")
        assert "Process 0 failed, so the runs are not merged: They differ; fix that" in processes.end_of(1)[1]

    def test_a_failure_of_any_length_and_script(self, processes: Processes) -> None:
        def fails(_: int) -> None:
            raise RunFolderError("\U0001f600" * 5000)

        processes.start(nothing, fails)
        assert "\U0001f600" * group.MESSAGE_CHARACTERS + "; fix" in processes.end_of(0)[1]

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

        def once_all_are_connected(_: int) -> None:
            for name in ("one", "two"):
                processes.wait_for(name)
            killed(0)

        others = (lambda _: processes.mark("one"), lambda _: processes.mark("two"))
        processes.start(once_all_are_connected, *others)
        assert [processes.end_of(rank) for rank in (1, 2)] == [(2, DIED)] * 2

    def test_a_signal_ends_one_that_waits(self, processes: Processes) -> None:
        processes.start(lambda _: processes.mark("ready"), lambda _: processes.wait_for("never"))
        processes.wait_for("ready")
        time.sleep(0.5)
        os.kill(processes.children[0], signal.SIGTERM)
        assert processes.end_of(0) == (143, "")

    def test_one_that_never_comes(self, processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(group, "CONNECT_TIMEOUT", timedelta(seconds=0.5))
        processes.start(nothing, world=2)
        code, said = processes.end_of(0)
        assert code == 2
        assert "2 processes must connect within" in said
        assert said.endswith("check MASTER_ADDR and MASTER_PORT.")


TRAINS = """
import os, sys, signal, time
from finetune.cli import app as cli
from finetune.run import shards
from finetune.config.presets import load_preset
from finetune.distributed.launcher import launch_info
from finetune.system.console import Reporter
from finetune.errors import FinetuneError
from finetune.system.signals import Stopped, StopRequest
from pathlib import Path
def train(folder, shard, resume, peers):
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
    shards.train_shard(load_preset("smoke"), Path(sys.argv[1]), launch_info(), Reporter(), stop, train)
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


def test_one_gpu_for_all_processes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = tiny_config(device="cuda:1")
    with pytest.raises(
        ConfigError, match="chooses its own GPU, but --device cuda:1 was given; use --device cuda"
    ):
        shards_module.train_parallel(
            "runs", config, tmp_path / "out", False, StopRequest(), RecordingReporter()
        )
