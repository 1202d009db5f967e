"""Run programs on all cores, one at a time, and read what they report. Imports no torch."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DATA = Path("..") / "shared" / "data"
TINY = bool(os.environ.get("BENCH_TINY"))
"""Show in a minute or two that everything runs; the figures mean nothing."""

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
DEVICE = os.environ.get("BENCH_DEVICE", "cpu")
WORKERS = int(os.environ["BENCH_WORKERS"]) if "BENCH_WORKERS" in os.environ else None
"""Loader processes of the tutorial's loop; None measures which number is faster."""


@dataclass(frozen=True)
class Workload:
    """A job that both programs run with the same options.

    Args:
        name: in the figures.
        needs: folder of images under `DATA`.
        options: accepted by both programs.
        is_tuned: whether ours is measured tuned as well, against theirs at one rate.
    """

    name: str
    needs: str
    options: tuple[str, ...]
    is_tuned: bool = False

    @property
    def epochs(self) -> int:
        return int(self.arguments[self.arguments.index("--epochs") + 1])

    @property
    def arguments(self) -> tuple[str, ...]:
        if not TINY:
            return self.options
        given = dict(zip(self.options[::2], self.options[1::2], strict=True))
        given |= {"--subset": "1" if self.name == "flowers" else "20", "--image-size": "32", "--epochs": "2"}
        return tuple(word for pair in given.items() for word in pair)


COMMON = "--batch-size 64 --weights bundled"
WORKLOADS = {
    name: Workload(name, needs, tuple(f"{options} {COMMON}".split()), is_tuned=name == "flowers")
    for name, needs, options in (
        (
            "flowers",
            "flowers-102",
            f"--dataset flowers102 --data-root {DATA} --split official --image-size 64 --epochs 5",
        ),
        (
            "hymenoptera",
            "hymenoptera",
            f"--dataset imagefolder:{DATA / 'hymenoptera'} --image-size 224 --epochs 3",
        ),
    )
}


def all_cores() -> set[int]:
    """The cores that the tests were started with; a test process itself uses one (`use_one_core`)."""
    if "TEST_CORES" in os.environ:
        return set(map(int, os.environ["TEST_CORES"].split(",")))
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


@contextmanager
def unpinned() -> Iterator[None]:
    """Let this thread, and the processes it starts meanwhile, use all cores."""
    cores = all_cores()
    if not cores:
        yield
        return
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


def run(words: Sequence[str], timeout: float | None = None, **variables: str) -> tuple[str, float]:
    """Output of a Python program, started in the repository's root, and its wall-clock seconds.

    It is killed after `timeout` seconds, with `subprocess.TimeoutExpired`.

    `OMP_WAIT_POLICY`, which the tests set for themselves, is removed: finetune sets it itself.
    """
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | variables
    began = time.perf_counter()
    with unpinned():
        done = subprocess.run(
            [sys.executable, *words],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    seconds = time.perf_counter() - began
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout, seconds


def knows(option: str) -> bool:
    """Whether this version of `finetune train` has an option."""
    return option in run(["-m", "finetune", "train", "--help"])[0]


def ours(
    arguments: Sequence[str], cache: Path, out: Path, device: str = DEVICE, timeout: float | None = None
) -> dict[str, Any]:
    """Run one `finetune train` job; what the figures need of its results."""
    words = ["-m", "finetune", "train", *arguments, "--device", device, "--out", str(out)]
    _, seconds = run(words, timeout, XDG_CACHE_HOME=str(cache))
    record = json.loads((out / "results.json").read_text("utf-8"))
    shutil.rmtree(out)
    require_all_cores(record["environment"]["threads"])
    seeds = [
        {job["variant"]: _epochs(job) for job in record["runs"] if job["seed"] == seed}
        for seed in record["config"]["seeds"]
    ]
    return {
        "whole_seconds": seconds,
        "start_seconds": record["timings"]["start_seconds"],
        "decode_seconds": record["timings"]["decode_seconds"],
        "peak_memory_bytes": max(job["peak_memory_bytes"] for job in record["runs"]),
        "variants": seeds[-1],
        "seeds": seeds,
    }


def _epochs(job: Mapping[str, Any]) -> dict[str, Any]:
    epochs = job["epochs"]
    timed = ("train_seconds", "data_wait_seconds", "evaluation_seconds")
    best = epochs[job["best_epoch"] - 1]["test"]
    return {
        **{name: [epoch[name] for epoch in epochs] for name in timed},
        "test_accuracy": best["n_correct"] / best["n_samples"],
    }


def theirs(
    program: str, arguments: Sequence[str], device: str = DEVICE, timeout: float | None = None
) -> dict[str, Any]:
    """Run one plain program; what the figures need of its report, less the seconds that it subtracts."""
    output, seconds = run(["-m", f"tests.benchmarks.{program}", *arguments, "--device", device], timeout)
    record: dict[str, Any] = json.loads(output.splitlines()[-1])
    require_all_cores(record["threads"])
    for log in record["variants"].values():
        best = log.pop("val_accuracy")
        log["test_accuracy"] = log["test_accuracy"][best.index(max(best))]
    return {**record, "whole_seconds": seconds - record["off_seconds"]}


def require_all_cores(threads: int) -> None:
    expected = len(all_cores()) or threads
    if threads != expected:
        raise RuntimeError(f"A program ran {threads} threads on {expected} cores; the figures would mislead.")


TORCH_ALONE = """
import torch, torchvision
from tests.benchmarks.memory import peak_resident_bytes
torch.nn.Conv2d(3, 64, 7)(torch.zeros(1, 3, 64, 64))
print(peak_resident_bytes())
"""


@functools.cache
def torch_alone_bytes() -> int:
    """Peak resident set of a process that loads torch and torchvision and runs one convolution."""
    return int(run(["-c", TORCH_ALONE])[0])
