"""Processes that train one network together: a step of theirs is the whole batch's, and so are its sums."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from finetune.cli import app as cli
from finetune.config.experiment import STANDARD_VARIANTS, Variant
from finetune.config.presets import load_preset
from finetune.distributed.group import connect
from finetune.distributed.launcher import LaunchInfo, launch_info
from finetune.distributed.world import DataParallel, SingleProcess, World
from finetune.errors import ConfigError
from finetune.run import shards as parallel
from finetune.run.experiment import run_experiment
from finetune.run.folder import RunFolder
from finetune.system.signals import Stopped, StopRequest
from finetune.training.requirements import require_batch_statistics
from finetune.training.trainer import Trainer
from grader.findings import Status
from grader.grading.grade import Job, grade
from grader.grading.policy import load_policy
from tests.builders.runs import RecordingReporter, results_of
from tests.builders.trainers import RECIPE, ignore_epoch, random_images, tiny_trainer
from tests.compare_runs import file_digests, without_times
from tests.machine import free_port

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

A, B, C = STANDARD_VARIANTS
HEAD = Variant(name="H", init="random", train=("fc",))
"""Its batch normalisation is frozen, so shares of a batch are normalized as the whole is."""


ALONE = SingleProcess()


class TestSingleProcess:
    def test_has_everything(self) -> None:
        batch = np.arange(5)
        assert ALONE.is_main
        assert np.array_equal(ALONE.shard(batch), batch)
        assert batch[ALONE.shard_range(5)].tolist() == batch.tolist()
        network = nn.Linear(2, 2)
        assert ALONE.wrap(network) is network

    def test_adds_nothing(self) -> None:
        assert ALONE.all_reduce_sum(torch.tensor(1.5), torch.tensor(2)) == [1.5, 2.0]
        assert ALONE.all_reduce_max(3, -4) == [3, -4]
        assert ALONE.all_equal({"a": [1, None]})
        values = np.array([1])
        assert ALONE.all_gather(values) is values
        buffer = torch.ones(2)
        ALONE.broadcast([buffer])
        assert buffer.tolist() == [1, 1]

    def test_stops_at_a_signal(self) -> None:
        stop = StopRequest()
        ALONE.raise_if_stopped(stop)
        stop.number = signal.SIGINT
        with pytest.raises(Stopped):
            ALONE.raise_if_stopped(stop)


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("n", [4, 5, 8, 9, 64])
def test_parts_are_all_there_once_and_in_order(size: int, n: int) -> None:
    world, shares, spans = SingleProcess(), [], []
    world.size = size
    for world.rank in range(size):
        shares.append(world.shard(np.arange(n)))
        spans.append(np.arange(n)[world.shard_range(n)])
    for parts in (shares, spans):
        assert np.concatenate(parts).tolist() == list(range(n))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(("n_train", "fits"), [(20, True), (19, False), (16, True), (17, False)])
def test_every_process_needs_two_images_of_every_batch(n_train: int, fits: bool) -> None:
    if fits:
        require_batch_statistics(HEAD, n_train, RECIPE, processes=2)
        return
    with pytest.raises(
        ConfigError, match=rf"Each of 2 processes needs two images .* {n_train} training images"
    ):
        require_batch_statistics(HEAD, n_train, RECIPE, processes=2)


Work = Callable[[DataParallel], object]
"""What each of the processes does."""


class Processes:
    """Two real processes that are connected; what each found, as a file of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.children: list[int] = []

    def start(self, work: Callable[[], object], **environ: str) -> None:
        environ |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        for rank in range(2):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    os.environ.update({**environ, "RANK": str(rank)})
                    torch.save(work(), self.folder / f"found{rank}")
                    code = 0
                except SystemExit as ended:
                    code = int(ended.code or 0)
                except BaseException:
                    (self.folder / f"error{rank}").write_text(traceback.format_exc())
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(code)
            self.children.append(child)

    def codes(self, seconds: float = 60) -> list[int]:
        """Both exit codes; processes that do not end are a failure."""
        limit, codes = time.monotonic() + seconds, {}
        while len(codes) < len(self.children):
            for child in set(self.children) - set(codes):
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    codes[child] = os.waitstatus_to_exitcode(status)
            assert time.monotonic() < limit, "a process does not end"
            time.sleep(0.01)
        ordered = [codes[child] for child in self.children]
        self.children.clear()
        return ordered

    def run(self, work: Work) -> list[Any]:
        """What each process found."""

        def connected() -> object:
            with connect(launch_info()) as group:
                assert group is not None
                return work(DataParallel(group, 2))

        self.start(connected)
        codes = self.codes()
        said = "".join(path.read_text() for path in self.folder.glob("error*"))
        assert codes == [0, 0], said
        return [torch.load(self.folder / f"found{rank}", weights_only=False) for rank in range(2)]

    def close(self) -> None:
        for child in self.children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Processes]:
    for name in [n for n in os.environ if n.startswith(("SLURM_", "LOCAL_", "TORCHELASTIC_"))]:
        monkeypatch.delenv(name)
    running = Processes(tmp_path)
    yield running
    running.close()


def test_a_gpu_that_is_not_used_takes_no_part(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert processes.run(lambda world: world.device_group is world.group) == [True, True]


def test_collective_operations(processes: Processes) -> None:
    def tell(world: DataParallel) -> dict[str, Any]:
        stop = StopRequest()
        world.raise_if_stopped(stop)
        if world.rank == 1:
            stop.number = signal.SIGTERM
        buffers = [torch.full((2, 3), float(world.rank)), torch.tensor(world.rank + 7)]
        world.broadcast(buffers)
        n = 5  # odd: the parts are two and three images
        mine = world.shard_range(n)
        try:
            world.raise_if_stopped(stop)
            stopped = 0
        except Stopped as error:
            stopped = error.number
        return {
            "total": world.all_reduce_sum(
                torch.tensor(0.5 + world.rank, dtype=torch.float64), torch.tensor(3)
            ),
            "agree": world.all_reduce_max(world.rank, -world.rank),
            "same": [world.all_equal({"a": 1}), world.all_equal(world.rank)],
            "buffers": buffers,
            "gathered": world.all_gather(np.arange(n, dtype=np.float32)[mine] / 2),
            "stopped": stopped,
            "first": world.is_main,
        }

    found = processes.run(tell)
    assert [f["first"] for f in found] == [True, False]
    for each in found:
        assert each["total"] == [2.0, 6.0]
        assert each["agree"] == [1, 0]
        assert each["same"] == [True, False]
        assert each["buffers"][0].tolist() == [[0.0] * 3] * 2
        assert each["buffers"][1].item() == 7
        assert each["gathered"].tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
        assert each["stopped"] == signal.SIGTERM  # though it came to one of them only


def trained(made: Trainer) -> dict[str, Any]:
    """What one epoch left: parameters, gradients of its last step, and the record."""
    training = made.run(ignore_epoch)
    network = made.network
    return {
        "state": {n: t.clone() for n, t in network.state_dict().items()},
        "gradients": {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None},
        "epochs": [(e.train, e.val, e.test) for e in training.epochs],
        "budget": (training.steps, training.images, training.stream_sha256),
        "best": training.best_predictions,
    }


@pytest.mark.usefixtures("narrow")
class TestStep:
    """Twenty images in batches of eight, of which the last has four; nine images in each held-out split."""

    def test_equals_that_of_the_whole_batch(self, processes: Processes) -> None:
        alone = trained(tiny_trainer(HEAD))
        for each in processes.run(lambda world: trained(tiny_trainer(HEAD, world=world))):
            assert each["budget"] == alone["budget"] == (6, 40, alone["budget"][2])
            assert each["gradients"].keys() == alone["gradients"].keys() == {"fc.weight", "fc.bias"}
            for name, gradient in alone["gradients"].items():
                torch.testing.assert_close(each["gradients"][name], gradient, rtol=1e-4, atol=1e-6)
            for name, tensor in alone["state"].items():
                torch.testing.assert_close(each["state"][name], tensor, rtol=1e-4, atol=1e-6)
            for mine, expected in zip(each["epochs"], alone["epochs"], strict=True):
                for found, metrics in zip(mine, expected, strict=True):
                    assert (found.n_samples, found.n_correct) == (metrics.n_samples, metrics.n_correct)
                    assert found.loss_sum == pytest.approx(metrics.loss_sum, rel=1e-5)
            for split, predictions in alone["best"].items():
                assert np.array_equal(each["best"][split].predicted, predictions.predicted)
                np.testing.assert_allclose(each["best"][split].nll, predictions.nll, rtol=1e-4)

    def test_shards_of_different_size_are_weighted(self, processes: Processes) -> None:
        """Five images: one process has three of them and the other two."""

        def gradient(world: World) -> torch.Tensor:
            made = tiny_trainer(HEAD, world=world, images=random_images(n_train=5))
            return trained(made)["gradients"]["fc.weight"]  # type: ignore[no-any-return]

        expected = gradient(ALONE)
        for found in processes.run(gradient):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)

    def test_batch_statistics_end_as_rank_0s(self, processes: Processes) -> None:
        one, two = processes.run(lambda world: trained(tiny_trainer(A, world=world)))
        assert one["epochs"] == two["epochs"]
        assert [metrics.n_samples for metrics in one["epochs"][0]] == [20, 9, 9]
        for name, tensor in one["state"].items():
            assert torch.equal(tensor, two["state"][name]), name

    def test_a_failure_reaches_every_process(self, processes: Processes) -> None:
        def failure(world: World) -> str | None:
            made = tiny_trainer(HEAD, world=world, peak=1e30)
            return made.run(ignore_epoch).failure

        one, two = processes.run(failure)
        assert one == two
        assert "was no longer finite" in one


TINY = ["--dataset", "digits", "--subset", "2", "--device", "cpu", "--workers", "1", "--epochs", "2"]
TINY += ["--batch-size", "8", "--image-size", "16", "--lr", "0.02", "--variants", "a,c"]


def finetune(folder: Path, *arguments: str) -> None:
    """The command line as the process of a team calls it; what it says becomes two files in the folder."""
    rank = os.environ["RANK"]
    sys.argv = ["finetune", *arguments]
    with (
        (folder / f"out{rank}").open("w") as out,
        (folder / f"err{rank}").open("w") as err,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        cli.main()


class Together:
    """Runs a command line in both processes of a team."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes

    def __call__(self, *arguments: str, before: Callable[[], object] = lambda: None) -> list[int]:
        """Both exit codes; `before` is called in each process first."""

        def work() -> None:
            before()
            finetune(self.processes.folder, *arguments)

        self.processes.start(work)
        return self.processes.codes()

    def said(self, kind: str) -> list[str]:
        return [(self.processes.folder / f"{kind}{rank}").read_text() for rank in range(2)]


@pytest.fixture
def together(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> Together:
    monkeypatch.chdir(processes.folder)
    return Together(processes)


def signalled(number: int, ranks: str) -> Callable[[], None]:
    """Makes a signal come to these processes in their second step."""

    def prepare() -> None:
        real, taken = Trainer._step, []

        def step(self: Trainer, *arguments: Any) -> None:
            taken.append(1)
            if len(taken) == 2 and os.environ["RANK"] in ranks:
                os.kill(os.getpid(), number)
            real(self, *arguments)

        Trainer._step = step  # type: ignore[method-assign]

    return prepare


class TestCommandLine:
    def test_trains_each_image_once_an_epoch(
        self, together: Together, narrow_weights: Path, tmp_path: Path
    ) -> None:
        options = ("train", *TINY, "--weights", str(narrow_weights), "--parallel", "data", "--out", "run")
        assert together(*options) == [0, 0], together.said("err")
        record = results_of(tmp_path / "run")
        assert record["config"]["processes"] == 2
        assert load_preset(str(tmp_path / "run" / "config.toml")).processes == 2
        for run in record["runs"]:
            assert run["status"] == "completed"
            assert (run["budget"]["steps"], run["budget"]["images"]) == (6, 40)
            for epoch in run["epochs"]:
                assert [epoch[split]["n_samples"] for split in ("train", "val", "test")] == [20] * 3
        assert len({run["budget"]["stream_sha256"] for run in record["runs"]}) == 1
        rows = (tmp_path / "run" / "predictions" / "C-seed0-test.csv").read_text().splitlines()
        assert len(rows) == len(set(rows)) == 21
        first, second = together.said("out")
        assert "trained parameters" in first
        assert second == ""
        judged = grade(Job(tmp_path / "run", "run", load_policy("default")))
        assert not judged.problems
        assert judged.findings["times-add-up"].status is Status.HOLDS

    @pytest.mark.slow
    @pytest.mark.parametrize("asked", ["1", "01"])
    def test_a_signal_stops_both_and_both_resume(
        self,
        together: Together,
        narrow_weights: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        asked: str,
    ) -> None:
        options = ("train", *TINY, "--weights", str(narrow_weights), "--parallel", "data", "--out")
        assert together(*options, "whole") == [0, 0], together.said("err")
        assert together(*options, "run", before=signalled(signal.SIGTERM, asked)) == [143, 143]
        how = "Resume with the same number of processes and: --parallel data --resume run"
        assert together.said("err") == [f"Interrupted. {how}\n"] * 2
        assert list((tmp_path / "run" / "state").glob("A-seed0-0000000002-000000-*"))

        for name, value in {"RANK": "0", "WORLD_SIZE": "3"}.items():
            monkeypatch.setenv(name, value)
        said = refused(capsys, monkeypatch, "train", "--parallel", "data", "--resume", "run")
        assert said == (
            "A run with --parallel data must be resumed with the same number of processes, but it started "
            "with 2 and there are 3; start 2."
        )
        said = refused(capsys, monkeypatch, "train", "--resume", "run")
        assert said.startswith(
            "This run divides each batch among 2 processes, so it must be resumed with the same"
        )

        assert together("train", "--parallel", "data", "--resume", "run") == [0, 0], together.said("err")
        assert "resumed after 2 steps" in together.said("out")[0]
        assert without_times(results_of(tmp_path / "run")) == without_times(results_of(tmp_path / "whole"))
        assert file_digests(tmp_path / "run") == file_digests(tmp_path / "whole")

    def test_one_that_is_killed_ends_the_other_with_a_sentence(
        self, together: Together, narrow_weights: Path
    ) -> None:
        options = ("train", *TINY, "--weights", str(narrow_weights), "--parallel", "data", "--out", "run")
        began = time.monotonic()
        assert together(*options, before=signalled(signal.SIGKILL, "1")) == [2, -signal.SIGKILL]
        assert time.monotonic() - began < 30
        assert together.said("err")[0] == (
            "Error: A worker process died (the launcher's output says which); finished work is kept: resume "
            "with the same number of processes and --parallel data --resume run.\n"
        )

    def test_a_folder_that_the_first_refuses_ends_both(
        self, together: Together, narrow_weights: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "mine.txt").touch()
        options = ("train", *TINY, "--weights", str(narrow_weights), "--parallel", "data", "--out", "run")
        assert together(*options) == [2, 2]
        first, second = together.said("err")
        assert "--out must name a new or empty folder" in first
        # It may still be connecting when the first has gone, and gloo writes what it thinks of that first.
        assert second.splitlines()[-1].startswith("Error: ")
        assert "Traceback" not in second
        assert [p.name for p in (tmp_path / "run").iterdir()] == ["mine.txt"]

    def test_a_batch_too_small_for_both(
        self, together: Together, narrow_weights: Path, tmp_path: Path
    ) -> None:
        options = ("train", *TINY, "--weights", str(narrow_weights), "--parallel", "data", "--out", "run")
        assert together(*options, "--batch-size", "6") == [2, 2]
        for said in together.said("err"):
            assert "Each of 2 processes needs two images of every batch" in said
            assert said.count("\n") == 1
        assert not (tmp_path / "run").exists()


class TestTuned:
    """Trials dealt out among two processes, or trained by both together."""

    @pytest.fixture
    def options(self, narrow_weights: Path, tmp_path: Path) -> tuple[str, ...]:
        (tmp_path / "own.toml").write_text("[tune]\nrates = [0.01, 0.02, 0.04]\n")
        tiny = [option for option in TINY if option not in ("--lr", "0.02")]
        return ("train", "--preset", str(tmp_path / "own.toml"), *tiny, "--weights", str(narrow_weights))

    def alone(self, run: Path, out: Path) -> dict[str, Any]:
        """What a single process makes of the configuration of a run."""
        return dict(run_experiment(RunFolder(run).config(), out, RecordingReporter(), StopRequest()))

    @pytest.mark.parametrize(
        "variants", [pytest.param("a,c", marks=pytest.mark.slow), "c"]
    )  # with one run, the other process has trials only
    def test_trials_dealt_out_are_those_of_one_process(
        self, together: Together, options: tuple[str, ...], tmp_path: Path, variants: str
    ) -> None:
        options = (*options, "--variants", variants, "--parallel", "runs", "--out", "run")
        for _ in range(2):  # the second time it has ended
            assert together(*options) == [0, 0], together.said("err")
        found = results_of(tmp_path / "run")
        assert without_times(found) == without_times(self.alone(tmp_path / "run", tmp_path / "alone"))
        assert file_digests(tmp_path / "run" / "predictions") == file_digests(
            tmp_path / "alone" / "predictions"
        )

    def test_each_process_has_its_share(
        self, together: Together, options: tuple[str, ...], tmp_path: Path
    ) -> None:
        assert together(*options, "--parallel", "runs", "--out", "run") == [0, 0], together.said("err")
        counts = [said.count("Trial, round") for said in together.said("out")]
        assert sum(counts) == len(results_of(tmp_path / "run")["tuning"]["trials"])
        assert max(counts) - min(counts) <= 3  # at most one in each round

    def test_a_process_that_fails_before_the_trials_is_told_to_the_other(
        self, together: Together, options: tuple[str, ...]
    ) -> None:
        def broken() -> None:
            if os.environ["RANK"] == "1":
                (Path("run") / "shard-001").mkdir(parents=True)
                (Path("run") / "shard-001" / "mine.txt").touch()

        codes = together(*options, "--parallel", "runs", "--out", "run", before=broken)
        assert codes == [2, 2]
        first, second = together.said("err")
        assert "has content (mine.txt)" in second
        assert first.startswith("Error: Process 1 failed, so the runs are not merged: --out must name")

    @pytest.mark.parametrize("how", ["runs", pytest.param("data", marks=pytest.mark.slow)])
    def test_stopped_in_a_trial_both_go_on(
        self, together: Together, options: tuple[str, ...], tmp_path: Path, how: str
    ) -> None:
        options = (*options, "--parallel", how, "--out")
        assert together(*options, "whole") == [0, 0], together.said("err")
        stopped = together(*options, "run", before=signalled(signal.SIGTERM, "01"))
        assert stopped == [143, 143], together.said("err")
        again = ("train", "--parallel", how, "--resume", "run") if how == "data" else (*options, "run")
        assert together(*again) == [0, 0], together.said("err")
        assert "resumed after 2 steps" in together.said("out")[0]
        assert without_times(results_of(tmp_path / "run")) == without_times(results_of(tmp_path / "whole"))
        assert results_of(tmp_path / "run")["config"]["processes"] == (2 if how == "data" else 1)

    def test_processes_that_cannot_reach_one_another(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
    ) -> None:
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.delenv("MASTER_ADDR", raising=False)
        said = refused(capsys, monkeypatch, *options, "--parallel", "runs", "--out", "run")
        assert said == (
            "--tune with --parallel runs needs processes that can reach one another, because they share the "
            "trials, but MASTER_ADDR is not set; start them with torchrun."
        )


def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """The one sentence of a command line that is refused."""
    monkeypatch.setattr(sys, "argv", ["finetune", *arguments])
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    with pytest.raises(SystemExit) as ended:
        cli.main()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    out, err = capsys.readouterr()
    assert (ended.value.code, out, err.count("\n")) == (2, "", 1)
    return err.strip().removeprefix("Error: ")


class TestRefused:
    @pytest.fixture(autouse=True)
    def _place(self, processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(processes.folder)
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", "2")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                ["--parallel", "data"],
                "--parallel needs one run folder .* but --out was not given; add --out FOLDER.",
            ),
            (
                ["--parallel", "runs"],
                "--parallel needs one run folder .* but --out was not given; add --out FOLDER.",
            ),
            (
                ["--parallel", "data", "--out", "run"],
                "processes that can reach one another, but MASTER_ADDR is not set; start them with torchrun.",
            ),
            *(
                (
                    ["--parallel", mode, "--out", "run", "--cache-views", "auto"],
                    "--cache-views must be a number, .* but auto was given; give the number of epochs",
                )
                for mode in ("runs", "data")
            ),
            (["--cache-views", "0"], "cache_views must be auto or a whole number of at least 1, but 0 was"),
            (["--cache-views", "-1"], "cache_views must be auto or .* but '-1' was given"),
            (["--cache-views", "few"], "cache_views must be auto or .* but 'few' was given"),
        ],
    )
    def test_options(
        self,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        options: list[str],
        message: str,
    ) -> None:
        assert re.search(message, refused(capsys, monkeypatch, "train", *TINY, *options))
        assert not list(tmp_path.iterdir())

    def test_without_a_launcher(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("RANK")
        said = refused(capsys, monkeypatch, "train", *TINY, "--parallel", "data", "--out", "run")
        assert "RANK must be a whole number, but it is not set; start the processes with" in said

    def test_cache_views_with_divided_batches(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(free_port()))
        monkeypatch.setenv("WORLD_SIZE", "1")
        monkeypatch.setattr(parallel, "DataParallel", lambda *_: ALONE)
        options = ("--parallel", "data", "--out", "run", "--cache-views", "2")
        monkeypatch.setattr(parallel, "launch_info", lambda: LaunchInfo(0, 2, connected=True))
        monkeypatch.setattr(parallel, "connect", lambda _: contextlib.nullcontext("a group"))
        said = refused(capsys, monkeypatch, "train", *TINY, *options)
        assert said == "cache_views with --parallel data must be left out, but 2 was given."

    def test_independent_runs_resume_without_coordination(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "config.toml").write_text('dataset = "digits"\n')
        said = refused(capsys, monkeypatch, "train", "--parallel", "runs", "--resume", "run")
        assert said.startswith("With --parallel runs the same command resumes a run")
        assert said.endswith("repeat the command that started the run.")


TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port")


@pytest.mark.slow
def test_torchrun_trains_the_real_network_with_two_processes(tmp_path: Path) -> None:
    options = ["--preset", "smoke", "--subset", "4", "--epochs", "1", "--batch-size", "16", "--device", "cpu"]
    words = [*TORCHRUN, str(free_port()), "-m", "finetune", "train", *options, "--parallel", "data"]
    done = subprocess.run(
        [*words, "--out", str(tmp_path / "run")], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    record = results_of(tmp_path / "run")
    assert record["config"]["processes"] == 2
    assert [run["budget"]["images"] for run in record["runs"]] == [40] * 3
    assert done.stdout.count("Results: ") == 1
    assert not grade(Job(tmp_path / "run", "run", load_policy("default"))).problems
