"""How often C is called faster than B, in simulated jobs on machines that others use too.

GRADER_SIMULATIONS sets how many jobs each figure rests on; `pytest -rP` shows them, for docs/detection.md.
"""

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from grader.checks.speed import c_faster
from grader.evidence.gathered import Evidence
from grader.findings import Status

N = int(os.environ.get("GRADER_SIMULATIONS", "1000"))
EPOCHS = 10
NOISE = 0.03
CACHES, THREADS = 1.1, 1.5
"""Processor time beside a program that takes turns on the same core, and beside one on the core's other
hardware thread, relative to that without. In the first case the time on the clock doubles."""

Slowness = Callable[[np.random.Generator, int], np.ndarray]


def neighbor(length: float, share: float = 1 / 3) -> Slowness:
    """Another program comes and goes, stays for `length` epochs on average, and halves the speed."""

    def load(rng: np.random.Generator, n: int) -> np.ndarray:
        on = rng.random() < share
        found = np.ones(n)
        for i in range(n):
            found[i] += on
            leaves = 1 / length if on else share / (1 - share) / length
            on ^= rng.random() < min(1.0, leaves)
        return found

    return load


def from_some_epoch(rng: np.random.Generator, n: int) -> np.ndarray:
    """Another program starts some time, and stays or, as often, has run and ends."""
    late = np.arange(n) >= rng.uniform(0, n)
    return 1.0 + (late if rng.random() < 0.5 else ~late)


LOADS: dict[str, Slowness] = {
    "nobody else": lambda _, n: np.ones(n),
    "another program for about an epoch": neighbor(1),
    "another program for about 3 epochs": neighbor(3),
    "another program for about 10 epochs": neighbor(10),
    "another program for about 30 epochs": neighbor(30),
    "another program until or from some epoch": from_some_epoch,
    "30% slower from start to end": lambda _, n: np.linspace(1, 1.3, n),
    "30% faster from start to end": lambda _, n: np.linspace(1.3, 1, n),
}
"""How much slower each of a job's epochs is than on an idle machine."""


def job(rng: np.random.Generator, load: str, n_seeds: int, ratio: float, clock_alone: bool) -> Evidence:
    """A, B and C with each seed, one after another, C taking `ratio` of the time of the others.

    In half of the jobs another program takes turns on the core, in the other half it has a hardware thread.
    """
    slowness = LOADS[load](rng, 3 * EPOCHS * n_seeds).reshape(n_seeds, 3, EPOCHS)
    work = np.array([1, 1, ratio])[:, None] * np.exp(rng.normal(0, NOISE, slowness.shape))
    takes_turns = rng.random() < 0.5
    busier = 1 + (slowness - 1) * ((CACHES if takes_turns else THREADS) - 1)
    wall, cpu = work * (slowness if takes_turns else busier), work * busier
    runs: dict[str, list[Any]] = {variant: [] for variant in "ABC"}
    for seed in range(n_seeds):
        for i, variant in enumerate("ABC"):
            epochs = [
                SimpleNamespace(
                    train_seconds=float(seconds),
                    train_cpu_seconds=None if clock_alone else float(busy),
                    data_wait_seconds=0.0,
                )
                for seconds, busy in zip(wall[seed, i], cpu[seed, i], strict=True)
            ]
            runs[variant].append(SimpleNamespace(name=variant, seed=seed, epochs=epochs, trained_groups=()))
    return Evidence(cast("Any", SimpleNamespace(device="cpu", of=runs.__getitem__)))


def shares(
    jobs: int, load: str, n_seeds: int, ratio: float = 1.0, clock_alone: bool = False
) -> dict[Status, float]:
    rng = np.random.default_rng([n_seeds, clock_alone, *load.encode()])
    found = [c_faster(job(rng, load, n_seeds, ratio, clock_alone)).status for _ in range(jobs)]
    return {status: found.count(status) / jobs for status in (Status.HOLDS, Status.FAILS)}


def at_most(share: float, jobs: int) -> float:
    """What a rate of at most `share` shows in so many jobs, up to two standard errors."""
    return share + 2 * (share * (1 - share) / jobs) ** 0.5


@pytest.mark.parametrize("jobs", [N // 5, pytest.param(5 * N, marks=pytest.mark.slow)])
@pytest.mark.parametrize("n_seeds", [1, 2, 3])
@pytest.mark.parametrize("load", LOADS)
def test_equal_speed(jobs: int, load: str, n_seeds: int) -> None:
    found = {alone: shares(jobs, load, n_seeds, clock_alone=alone) for alone in (False, True)}
    figures = ", ".join(
        f"{'clock alone' if alone else 'with processor time'}: faster {share[Status.HOLDS]:.3f}, "
        f"slower {share[Status.FAILS]:.3f}"
        for alone, share in found.items()
    )
    print(f"{load}, {n_seeds} seeds: {figures}")  # noqa: T201 - for the docs
    for share in found.values():
        assert share[Status.HOLDS] <= at_most(0.05, jobs)
        assert share[Status.FAILS] <= at_most(0.01, jobs)


@pytest.mark.parametrize("jobs", [N // 5, pytest.param(5 * N, marks=pytest.mark.slow)])
@pytest.mark.parametrize("n_seeds", [1, 3])
@pytest.mark.parametrize("ratio", [0.45, 0.6, 0.7, 0.8])
def test_a_faster_c(jobs: int, n_seeds: int, ratio: float) -> None:
    for load in LOADS:
        found = shares(jobs, load, n_seeds, ratio)
        print(f"{ratio}, {load}, {n_seeds} seeds: faster {found[Status.HOLDS]:.3f}")  # noqa: T201
        assert found[Status.FAILS] <= at_most(0.002, jobs)
        if load == "nobody else":
            assert found[Status.HOLDS] >= (0.99 if ratio < 0.7 else 0)
