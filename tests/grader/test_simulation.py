"""What the intervals and tests promise, kept in simulated experiments.

Seeds are fixed, so that a result does not change from run to run. GRADER_SIMULATIONS sets how many
experiments each figure rests on; the slow variants use ten times as many.
"""

import os
from collections.abc import Callable
from statistics import NormalDist
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from grader.checks.compare import _two_seeds
from grader.checks.speed import c_faster
from grader.evidence.gathered import Evidence
from grader.findings import Status
from grader.statistics import means, proportions
from grader.statistics.proportions import Interval, PairedCounts
from grader.submission.record import Results

N = int(os.environ.get("GRADER_SIMULATIONS", "1000"))
SLOW = pytest.param(10 * N, marks=pytest.mark.slow)
probability = NormalDist().cdf


def is_nominal(covered: list[bool], low: float = 0.93, high: float = 0.97) -> bool:
    """Whether the share covered is within the bounds; few experiments get twice their standard error."""
    slack = 2 * (0.95 * 0.05 / len(covered)) ** 0.5 if len(covered) < 4000 else 0
    share = sum(covered) / len(covered)
    print(f"covered {share:.4f} of {len(covered)}")  # noqa: T201 - figures for the docs, with pytest -rP
    return low - slack <= share <= high + slack


def covers(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def paired(rng: np.random.Generator, n: int, first: float, second: float) -> PairedCounts:
    """Two networks on the same images, of which some are hard for both (correlation 0.6)."""
    shared = rng.normal(size=n) * 0.6**0.5
    x, y = (shared + rng.normal(size=n) * 0.4**0.5 + skill > 0 for skill in (first, second))
    return counted(x, y)


def counted(x: np.ndarray, y: np.ndarray) -> PairedCounts:
    return PairedCounts(int((x & y).sum()), int((x & ~y).sum()), int((~x & y).sum()), int((~x & ~y).sum()))


def answers(
    rng: np.random.Generator, n_images: int, n_seeds: int, spread: float, skills: tuple[float, float]
) -> tuple[list[np.ndarray], float]:
    """Right answers of two variants [seeds x images], and their true difference: all of it varies."""
    image, variant_image = 1.0, 0.4
    shared = rng.normal(size=n_images) * image

    def right(skill: float) -> np.ndarray:
        own = rng.normal(size=n_images) * variant_image
        seeds = rng.normal(size=(n_seeds, 1)) * spread
        return skill + shared + own + seeds + rng.normal(size=(n_seeds, n_images)) > 0

    total = (image**2 + variant_image**2 + spread**2 + 1) ** 0.5
    truth = probability(skills[0] / total) - probability(skills[1] / total)
    return [right(skill) for skill in skills], truth


@pytest.mark.parametrize("experiments", [N, SLOW])
@pytest.mark.parametrize(("n", "first", "second"), [(270, 1.2, 1.2), (270, 1.2, 0.9), (1278, 0.9, 0.8)])
def test_paired_intervals_cover(experiments: int, n: int, first: float, second: float) -> None:
    rng = np.random.default_rng(20)
    truth = probability(first) - probability(second)
    covered = [
        covers(proportions.difference_of_paired(paired(rng, n, first, second)), truth)
        for _ in range(experiments)
    ]
    assert is_nominal(covered)


@pytest.mark.parametrize("experiments", [N, SLOW])
def test_independent_intervals_cover(experiments: int) -> None:
    rng = np.random.default_rng(21)
    draws = zip(rng.binomial(1224, 0.85, experiments), rng.binomial(1278, 0.83, experiments), strict=True)
    covered = [
        covers(
            proportions.difference_of_independent(proportions.wilson(x, 1224), proportions.wilson(y, 1278)),
            0.02,
        )
        for x, y in draws
    ]
    assert is_nominal(covered)


@pytest.mark.parametrize("experiments", [N, SLOW])
def test_mean_per_class_intervals_cover(experiments: int) -> None:
    # As an official split has it: 10 validation images a class, 20 to 80 test images.
    rng = np.random.default_rng(22)
    skill = rng.uniform(0.5, 0.98, 20)
    val, test = np.full(20, 10), rng.integers(20, 81, 20)
    covered = []
    for _ in range(experiments):
        x, y = (list(zip(rng.binomial(n, skill), n, strict=True)) for n in (test, val))
        covered.append(covers(proportions.difference_of_class_means(x, y), 0.0))
    assert is_nominal(covered)


@pytest.mark.parametrize("experiments", [N, SLOW])
@pytest.mark.parametrize(("n_seeds", "spread"), [(3, 0.1), (5, 0.05), (5, 0.15)])
def test_intervals_over_seeds_cover(experiments: int, n_seeds: int, spread: float) -> None:
    rng = np.random.default_rng(23)
    covered = []
    for _ in range(experiments):
        (x, y), truth = answers(rng, 600, n_seeds, spread, (1.3, 1.0))
        covered.append(covers(means.difference_over_seeds(x.astype(float) - y)[0], truth))
    assert is_nominal(covered)


@pytest.mark.parametrize("experiments", [N, SLOW])
@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_two_seeds_cover_more_than_nominal(experiments: int, spread: float) -> None:
    """The hull of the seeds' own intervals, as docs/statistics.md says."""
    rng = np.random.default_rng(24)
    covered = []
    for _ in range(experiments):
        skills = (1.3, 1.0)
        right, truth = answers(rng, 600, 2, spread, skills)
        tables = [counted(x, y) for x, y in zip(*right, strict=True)]
        covered.append(covers(_two_seeds(tables, 0.95)[0], truth))
    assert is_nominal(covered, 0.93, 1.0)


@pytest.mark.parametrize("experiments", [N, SLOW])
@pytest.mark.parametrize(("n_splits", "spread"), [(2, 0.1), (3, 0.05), (3, 0.2), (5, 0.05), (5, 0.2)])
def test_intervals_over_resplits_cover(experiments: int, n_splits: int, spread: float) -> None:
    """Two nearest-centroid classifiers, trained and tested on new 70-15-15 splits of the same 400 images."""
    rng = np.random.default_rng(27)
    centers, features = np.full(10, 0.35), (10, 8)
    n, n_train, n_test = 400, 280, 60

    def weights(x: np.ndarray, y: np.ndarray, k: int) -> np.ndarray:
        return x[y][:, :k].mean(axis=0) - x[~y][:, :k].mean(axis=0) + rng.normal(size=k) * spread

    def draw(size: int) -> tuple[np.ndarray, np.ndarray]:
        y = rng.random(size) < 0.5
        return rng.normal(size=(size, 10)) + np.where(y[:, None], centers, -centers), y

    exact = []  # the accuracy of fresh classifiers has a closed form
    for _ in range(4000):
        x, y = draw(n_train)
        w = [weights(x, y, k) for k in features]
        first, second = (probability(v @ centers[: len(v)] / np.linalg.norm(v)) for v in w)
        exact.append(first - second)
    covered = []
    for _ in range(experiments):
        x, y = draw(n)
        gaps, sampling = [], []
        for _ in range(n_splits):
            order = rng.permutation(n)
            train, test = order[:n_train], order[-n_test:]
            right = [(x[test][:, :k] @ weights(x[train], y[train], k) > 0) == y[test] for k in features]
            table = counted(*right)
            gaps.append(table.difference)
            sampling.append(((table.first + table.second) / n_test - table.difference**2) / n_test)
        least = float(np.mean(sampling))
        interval = means.difference_over_resplits(gaps, n_test / n_train, least=least)[0]
        covered.append(covers(interval, float(np.mean(exact))))
    assert is_nominal(covered, 0.94, 1.0)


def persistent(rng: np.random.Generator, n: int, correlation: float) -> np.ndarray:
    """Standard normal values, each correlated with the one before."""
    values = rng.normal(size=n)
    for i in range(1, n):
        values[i] = correlation * values[i - 1] + (1 - correlation**2) ** 0.5 * values[i]
    return values


LOADS: dict[str, Callable[[np.random.Generator, str], np.ndarray]] = {
    "autocorrelation of 0.5": lambda rng, _: 0.1 * persistent(rng, 10, 0.5),
    "autocorrelation of 0.9": lambda rng, _: 0.1 * persistent(rng, 10, 0.9),
    "another level in each run": lambda rng, _: 0.1 * rng.normal() + 0.03 * rng.normal(size=10),
    "5% drift from run to run": lambda rng, variant: 0.05 * (variant == "B") + 0.01 * rng.normal(size=10),
    "another program, a third of the time": lambda rng, _: (persistent(rng, 10, 0.9) > 0.43) * np.log(3),
}
"""Logarithms of the times of a run's epochs, C and B equally fast, on machines that others use too."""


@pytest.mark.parametrize("experiments", [N // 5, SLOW])
@pytest.mark.parametrize("n_seeds", [1, 2, 3])
@pytest.mark.parametrize("load", LOADS)
def test_equal_speed_is_rarely_called_faster_and_never_slower(
    experiments: int, n_seeds: int, load: str
) -> None:
    """By the clock alone, as in files without CPU time; with it, equal work is never told apart."""
    rng = np.random.default_rng(25)
    called = dict.fromkeys(Status, 0)
    for _ in range(experiments):
        seconds = {v: [np.exp(LOADS[load](rng, v)) for _ in range(n_seeds)] for v in "CB"}
        runs = {
            v: [
                SimpleNamespace(
                    name=f"{v}-seed{seed}",
                    seed=seed,
                    epochs=[
                        SimpleNamespace(train_seconds=t, train_cpu_seconds=None, data_wait_seconds=0.0)
                        for t in times
                    ],
                )
                for seed, times in enumerate(seconds[v])
            ]
            for v in "CB"
        }
        results = SimpleNamespace(device="cpu", of=lambda variant, runs=runs: runs.get(variant, []))
        called[c_faster(Evidence(cast("Results", results))).status] += 1
    print(f"{load}, {n_seeds} seeds: {called[Status.HOLDS] / experiments:.3f}")  # noqa: T201 - for the docs
    assert called[Status.HOLDS] <= 0.05 * experiments + 2 * (0.05 * 0.95 * experiments) ** 0.5
    assert called[Status.FAILS] == 0


@pytest.mark.parametrize("experiments", [N, SLOW])
@pytest.mark.parametrize("n", [270, 1278])
def test_equal_networks_are_rarely_called_different(experiments: int, n: int) -> None:
    """A false "B beats A" among three equal variants: at most the nominal rate, one-sided."""
    rng = np.random.default_rng(26)
    beats = wrong = 0
    for _ in range(experiments):
        tables = [paired(rng, n, 1.0, 1.0) for _ in range(3)]
        p = proportions.holm([proportions.mcnemar(table) for table in tables])[0]
        beats += p < 0.05 and tables[0].difference > 0
        wrong += p < 0.05
    assert beats / experiments <= 0.025
    assert wrong / experiments <= 0.05
