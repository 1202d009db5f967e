"""Whole jobs on a GPU: the same twice, the same after a stop, full memory, and one process with NCCL."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.errors import OutOfMemory
from finetune.run.experiment import run_experiment
from finetune.system.signals import Stopped, StopRequest
from finetune.training.trainer import Trainer
from grader.reading.schema import schema_problems
from tests.builders.config import tiny_config
from tests.builders.runs import RecordingReporter, StopAt, results_of
from tests.compare_runs import differences
from tests.machine import free_port


def train(out: Path, device: torch.device, stop: StopRequest | None = None, **fields: Any) -> dict[str, Any]:
    """20 digits at 32 px for two epochs, A, B and C, with all of ResNet-18's channels."""
    config = tiny_config(**{"device": device.type, "image_size": 32, "precision": "auto", **fields})
    return run_experiment(
        config, out, RecordingReporter(), stop or StopRequest(), (out / "config.toml").is_file()
    )


@pytest.fixture(scope="module")
def deterministic(device: torch.device, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("deterministic") / "run"
    train(out, device, deterministic=True)
    return out


def test_deterministic_jobs_are_the_same_twice(
    deterministic: Path, device: torch.device, tmp_path: Path
) -> None:
    train(tmp_path / "again", device, deterministic=True)
    assert differences(tmp_path / "again", deterministic) == []


@pytest.mark.parametrize("pieces", [3, 9, 20])
def test_a_deterministic_job_that_was_stopped(
    deterministic: Path, device: torch.device, tmp_path: Path, pieces: int
) -> None:
    with pytest.raises(Stopped):
        train(tmp_path / "run", device, StopAt(pieces), deterministic=True)
    train(tmp_path / "run", device, deterministic=True)
    assert differences(tmp_path / "run", deterministic) == []


def test_images_cached_views_and_results(device: torch.device, tmp_path: Path) -> None:
    """As people run it: the fastest algorithms, images where `auto` puts them, cached views."""
    record = train(tmp_path / "run", device, cache_views=1)
    assert not list(schema_problems(record))
    assert record["environment"]["device"] == device.type
    for run in record["runs"]:
        assert run["status"] == "completed"
        assert run["frozen_sha256_before"] == run["frozen_sha256_after"]


def test_peak_memory_is_recorded(device: torch.device, tmp_path: Path) -> None:
    record = train(tmp_path / "run", device)
    peaks = {run["variant"]: run["peak_memory_bytes"] for run in record["runs"]}
    parameters = 4 * 11_181_642  # float32, ten classes
    assert all(peak > 2 * parameters for peak in peaks.values())  # the network, and momentum or gradients
    if device.type == "cuda":  # the peak of each run; on a CPU it is the process's so far
        assert peaks["C"] < peaks["A"] < torch.cuda.mem_get_info(device)[1]


def test_full_memory_names_a_batch_size(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer._step

    def greedy(trainer: Trainer, *arguments: Any) -> None:
        if trainer.training.steps == 4:
            torch.empty(1 << 50, dtype=torch.uint8, device=trainer.device)
        step(trainer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", greedy)
        with pytest.raises(OutOfMemory, match="try --batch-size 4"):
            train(tmp_path / "run", device)
    record = train(tmp_path / "run", device)  # resumes
    assert [run["status"] for run in record["runs"]] == ["completed"] * 3


def test_a_batch_that_the_allocator_refuses(device: torch.device, tmp_path: Path) -> None:
    """The check before training sees the free memory of the device, not how much this process may have."""
    if device.type != "cuda":
        pytest.skip("limits the allocator of a GPU")
    fields = {"image_size": 224, "batch_size": 64, "subset": 8, "epochs": 1}
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e9 / torch.cuda.mem_get_info(device)[1])
    try:
        with pytest.raises(OutOfMemory, match="try --batch-size 32"):
            train(tmp_path / "run", device, precision="fp32", **fields)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    record = train(tmp_path / "smaller", device, precision="fp32", **{**fields, "batch_size": 16})
    assert [run["status"] for run in record["runs"]] == ["completed"] * 3


def test_one_process_with_nccl(device: torch.device, tmp_path: Path) -> None:
    """Gradients averaged over a single process are its own: the job is that of a process alone."""
    words = (
        "--dataset digits --subset 2 --epochs 2 --batch-size 8 --image-size 32 --lr 0.02 --weights bundled "
    )
    words += f"--device {device.type} --workers 1 --deterministic --out"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CUBLAS")}
    for launcher, out, mode in (
        ("-m", "alone", []),
        (
            f"-m torch.distributed.run --master-port {free_port()} --nproc-per-node 1 -m",
            "group",
            ["--parallel", "data"],
        ),
    ):
        done = subprocess.run(
            [
                sys.executable,
                *launcher.split(),
                "finetune",
                "train",
                *words.split(),
                str(tmp_path / out),
                *mode,
            ],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    alone, group = (
        {p.name: p.read_bytes() for p in (tmp_path / out / "predictions").iterdir()}
        for out in ("alone", "group")
    )
    assert group == alone
    assert results_of(tmp_path / "group")["environment"]["device"] == device.type
