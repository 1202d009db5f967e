"""Whole jobs under odd conditions: little memory, losses that are no numbers, clocks, names, long runs."""

from __future__ import annotations

import csv
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from finetune.config.experiment import ExperimentConfig
from finetune.data.datasets import load_dataset
from finetune.data.splits import make_splits
from finetune.errors import OutOfMemory
from finetune.run import experiment as job
from finetune.run.experiment import run_experiment
from finetune.system.signals import StopRequest
from finetune.training import checkpoint
from finetune.training.trainer import Trainer
from grader import cli as grader
from grader.reading.schema import schema_problems
from tests.builders.config import tiny_command, tiny_config
from tests.builders.images import image_tree
from tests.builders.runs import RecordingReporter, results_of, run_finetune

OUT_OF_MEMORY = """
import pathlib, resource, sys
import torch
from finetune.cli import app as cli
from finetune.system import console
from finetune.run import environment
torch.set_num_threads(1)
environment.SOURCE_TREE = pathlib.Path("/nonexistent")
say = console.Reporter.say
def limited(self, text):
    say(self, text)
    if text.startswith("A seed 0"):
        pages = int(open("/proc/self/statm").read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (32 << 20),) * 2)
console.Reporter.say = limited
sys.argv[0] = "finetune"
cli.main()
"""
"""The command with 32 MiB of address space left when training begins; a batch alone takes 54 MB."""


def test_out_of_memory_on_the_host(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = "--dataset digits --subset 9 --epochs 1 --image-size 224 --batch-size 90 --weights bundled"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            OUT_OF_MEMORY,
            "train",
            *options.split(),
            "--out",
            out,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stderr.strip() == (
        "Error: A batch of 90 images of 224 pixels does not fit into the free memory; "
        "try --batch-size 45, or a smaller --image-size."
    )
    assert not (out / "results.json").exists()
    assert (out / "config.toml").exists()


def test_out_of_memory_in_the_second_variant(
    tmp_path: Path, narrow_weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    step = Trainer._step

    def greedy(trainer: Trainer, *arguments: Any) -> None:
        if trainer.training.epochs and (out / "results.json").exists():
            torch.empty(1 << 58)  # what PyTorch's own allocator says to that
        step(trainer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", greedy)
        said = run_finetune(capsys, *tiny_command(out, narrow_weights)).refused()
    assert "A batch of 8 images of 16 pixels does not fit" in said
    assert "try --batch-size 4" in said
    record = results_of(out)
    assert [(r["variant"], r["status"]) for r in record["runs"]] == [("A", "completed")]
    assert not list(schema_problems(record))
    done = run_finetune(capsys, "train", "--resume", out)
    assert done.code == 0
    assert "resumed after 3 steps" in done.out
    assert [r["status"] for r in results_of(out)["runs"]] == ["completed"] * 3


def test_too_little_memory_for_a_checkpoint(tmp_path: Path) -> None:
    tensors = {"x": torch.zeros(100 << 20)}  # more than the allocator has left from earlier tests
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + (10 << 20), limits[1]))
    try:
        with pytest.raises(OutOfMemory), job.memory_errors(ExperimentConfig()):
            checkpoint._copy(tensors["x"])
        checkpoint.Checkpoints(tmp_path, "X")._replace(tensors, "best")  # writing asks for no more
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_loss_of_one_variant_turns_nan(
    tmp_path: Path, narrow_weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    preset, out = tmp_path / "wild.toml", tmp_path / "run"
    preset.write_text("[variants.B]\nlr = 1e30\n[recipe]\nlr = 0.02\n")
    arguments = tiny_command(out, narrow_weights, "--preset", preset)
    at = arguments.index("--lr")
    del arguments[at : at + 2]  # it would outrank the preset's
    done = run_finetune(capsys, *arguments)
    assert done.code == 1, done
    assert "B-seed0 failed. In epoch 1 the loss was no longer finite" in done.out
    record = results_of(out)
    assert {r["variant"]: r["status"] for r in record["runs"]} == {
        "A": "completed",
        "B": "failed",
        "C": "completed",
    }
    assert not list(schema_problems(record))
    assert (out / "report.html").is_file()
    assert run_finetune(capsys, "train", "--resume", out).code == 1
    assert results_of(out)["runs"] == record["runs"]
    monkeypatch.setattr(sys, "argv", ["grader", str(out)])
    with pytest.raises(SystemExit):
        grader.main()
    verdict = capsys.readouterr().out
    assert "B" in verdict
    assert "failed" in verdict


def test_clock_set_back(
    tmp_path: Path, narrow_weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [time.time()]

    def backwards() -> float:
        now[0] -= 3600.0
        return now[0]

    monkeypatch.setattr(time, "time", backwards)
    out = tmp_path / "run"
    assert run_finetune(capsys, *tiny_command(out, narrow_weights)).code == 0
    assert run_finetune(capsys, "train", "--resume", out).code == 0
    record = results_of(out)
    seconds: list[float] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            seconds.extend(v for k, v in value.items() if k.endswith("seconds"))
            walk(list(value.values()))
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(record)
    assert len(seconds) > 20
    assert min(seconds) >= 0
    assert max(seconds) < 3600


NAMES = [
    "x" * 64,
    "ж" * 64,
    "漢字の花",
    "زهرة",
    "🌻🌹",
    "=1+1",
    "+cmd|'calc'!A0",
    "-2",
    "@SUM(A1)",
    'a "quoted", name',
    "<b>&amp;",
]


def test_class_names_of_every_kind(
    tmp_path: Path, narrow_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = image_tree(tmp_path / "images", dict.fromkeys(NAMES, 5))
    out = tmp_path / "run"
    more = ["--dataset", f"imagefolder:{folder}", "--variants", "a,b", "--batch-size", "12"]
    done = run_finetune(capsys, *tiny_command(out, narrow_weights, *more))
    assert done.code == 0, done
    record = results_of(out)
    assert record["dataset"]["classes"] == sorted(NAMES)
    assert (out / "report.html").stat().st_size > 10_000
    seen = set()
    for split in ("val", "test"):
        with (out / "predictions" / f"B-seed0-{split}.csv").open(encoding="utf-8", newline="") as file:
            for row in list(csv.reader(file))[1:]:
                assert row[0][0] not in "=+-@"
                seen.add(row[0].removeprefix("./").rpartition("/")[0])
    assert seen == set(NAMES)
    fresh = tmp_path / "fresh"
    where = f"imagefolder:{folder}"
    assert run_finetune(capsys, "evaluate", out, "--output", fresh, "--dataset", where).code == 0
    for path in fresh.glob("*.csv"):
        assert path.read_bytes() == (out / "predictions" / path.name).read_bytes()


def test_class_names_that_the_grader_refuses_are_refused_before_training(
    tmp_path: Path, narrow_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = image_tree(tmp_path / "images", {"line\nbreak": 5, "other": 5})
    more = ["--dataset", f"imagefolder:{folder}"]
    said = run_finetune(capsys, *tiny_command(tmp_path / "run", narrow_weights, *more)).refused()
    assert "must not contain line breaks" in said
    assert not (tmp_path / "run" / "config.toml").exists()


@pytest.mark.parametrize(
    "dataset",
    ["imagefolder:a\0b", "imagefolder:" + "x" * 300, "imagefolder:~no-such-user/x", "imagefolder:."],
)
def test_folder_names_that_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, dataset: str
) -> None:
    monkeypatch.chdir(tmp_path)
    run_finetune(capsys, *tiny_command(tmp_path / "run", "bundled", "--dataset", dataset)).refused()


@pytest.mark.parametrize("weights", ["x" * 300, "a\0b.pth", "y" * 300 + ".safetensors", "/", "~nobody.pth"])
def test_weights_names_that_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], weights: str
) -> None:
    run_finetune(capsys, *tiny_command(tmp_path / "run", weights)).refused()


@pytest.mark.parametrize("command", ["train --resume", "train --dataset digits --out", "train --preset"])
def test_run_folder_names_that_cannot_be(capsys: pytest.CaptureFixture[str], command: str) -> None:
    end = ".toml" if command.endswith("--preset") else ""
    run_finetune(capsys, *command.split(), "x" * 300 + end).refused()


@pytest.mark.slow
def test_200_epochs_with_flat_memory(tmp_path: Path, narrow_weights: Path) -> None:
    process, sizes = psutil.Process(), []

    class Measuring(RecordingReporter):
        def say(self, text: str) -> None:
            super().say(text)
            if text.startswith("  A "):
                sizes.append(process.memory_info().rss)

    config = tiny_config(weights=str(narrow_weights), epochs=200, subset=5).pick("a")
    started = time.monotonic()
    record = run_experiment(config, tmp_path / "run", Measuring(), StopRequest())
    seconds = time.monotonic() - started
    assert record["runs"][0]["budget"]["epochs"] == 200
    settled = np.array(sizes[40:], float)
    slope = float(np.polyfit(np.arange(len(settled)), settled, 1)[0])
    print(json.dumps({"epochs": 200, "bytes_an_epoch": slope, "last_bytes": sizes[-1], "seconds": seconds}))  # noqa: T201
    assert slope < 50_000  # 50 kB an epoch would be 10 MB in 200
    assert settled[-1] - settled[0] < 20e6


@pytest.mark.slow
def test_100_000_files(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for label in range(10):
        place = folder / f"class{label}"
        place.mkdir(parents=True)
        for number in range(10_000):
            pixels = label.to_bytes(4, "big") + number.to_bytes(8, "big")
            (place / f"{number:05d}.ppm").write_bytes(b"P6 2 2 255\n" + pixels)
    before, started = psutil.Process().memory_info().rss, time.monotonic()
    dataset = load_dataset(f"imagefolder:{folder}", tmp_path)
    listed = time.monotonic() - started
    splits = make_splits(dataset, None, None, 0, 1)
    seconds = time.monotonic() - started
    n_bytes = psutil.Process().memory_info().rss - before
    print(json.dumps({"files": 100_000, "list": listed, "list_hash_split": seconds, "rss_bytes": n_bytes}))  # noqa: T201
    assert [len(s.samples) for s in splits.by_name.values()] == [70_000, 15_000, 15_000]
    assert n_bytes < 1e9
    assert seconds < 300
