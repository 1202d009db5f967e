"""The whole job, against the tutorial's loop and torchvision's reference on the same images.

Programs run one at a time in turns (ours, theirs, ours, theirs, ...), so that what else the machine does
befalls both. Nothing here fails by time: the figures go to `figures.FILE`, from there to docs/benchmarks.md.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tests.benchmarks import figures, measure
from tests.benchmarks.measure import ROUNDS, WORKLOADS, Workload, ours, theirs
from tests.machine import real_data

pytestmark = pytest.mark.usefixtures("at_length")

Ours = Callable[..., dict[str, Any]]


@pytest.fixture(params=list(WORKLOADS))
def workload(request: pytest.FixtureRequest) -> Workload:
    real_data(WORKLOADS[request.param].needs)
    return WORKLOADS[request.param]


@pytest.fixture(scope="session")
def tutorial_workers() -> Callable[[Workload], tuple[int, dict[str, float]]]:
    """For a workload: the number of loader processes that is faster for the tutorial, and what each took."""
    known: dict[str, tuple[int, dict[str, float]]] = {}

    def faster(workload: Workload) -> tuple[int, dict[str, float]]:
        if measure.WORKERS is not None:
            return measure.WORKERS, {}
        if workload.name not in known:
            took: dict[str, float] = {}
            for workers in 2 * (0, len(measure.all_cores()) or 2):  # in turns; the better of two counts
                words = with_options(workload.arguments, epochs=1, workers=workers, variants="A,C")
                logs = theirs("tutorial", words)["variants"].values()
                seconds = sum(log["train_seconds"][0] + log["evaluation_seconds"][0] for log in logs)
                took[str(workers)] = min(seconds, took.get(str(workers), seconds))
            known[workload.name] = int(min(took, key=lambda w: took[w])), took
        return known[workload.name]

    return faster


def with_options(arguments: tuple[str, ...], **options: object) -> tuple[str, ...]:
    """Arguments with options added or put in place of others."""
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    given |= {f"--{name.replace('_', '-')}": str(value) for name, value in options.items()}
    return tuple(word for pair in given.items() for word in pair)


@pytest.fixture
def run_ours(workload: Workload, tmp_path: Path) -> Iterator[Ours]:
    """Runs ours into a run folder of its own."""
    number = itertools.count()

    def run(cache: str, **options: object) -> dict[str, Any]:
        words = with_options(workload.arguments, **options)
        return ours(words, tmp_path / cache, tmp_path / f"run-{next(number)}")

    yield run
    shutil.rmtree(tmp_path)  # stores and checkpoints: gigabytes


@pytest.mark.parametrize("program", ["tutorial", "reference"])
def test_whole_job(
    program: str,
    workload: Workload,
    run_ours: Ours,
    tutorial_workers: Callable[[Workload], tuple[int, dict[str, float]]],
    benchmark: BenchmarkFixture,
) -> None:
    workers, probe = (
        tutorial_workers(workload) if program == "tutorial" else (len(measure.all_cores()) or 2, {})
    )
    rounds: list[dict[str, Any]] = []

    def measure_round() -> None:
        cache, seed = f"cache-{len(rounds)}", len(rounds)  # accuracies of ours and theirs come in pairs
        one = {
            "auto": run_ours(cache, seed=seed),
            "theirs": theirs(program, with_options(workload.arguments, workers=workers, seed=seed)),
        }
        if program == "tutorial":  # whose loop is the one that the goals are about
            one["fp32"] = run_ours(cache, seed=seed, precision="fp32")
            if workload.is_tuned:  # an answer that does not depend on one rate, against one that does
                one["tuned"] = run_ours(f"{cache}-tuned", seed=seed, tune="halving", cache_views="auto")
        rounds.append(one)
        figures.save(
            f"{program}/{workload.name}",
            figures.whole_jobs(rounds, measure.torch_alone_bytes()),
            rounds,
            workers=workers,
            probe=probe,
            arguments=workload.arguments,
        )

    benchmark.pedantic(measure_round, rounds=ROUNDS)


def test_cached_prefix(
    workload: Workload,
    run_ours: Ours,
    tutorial_workers: Callable[[Workload], tuple[int, dict[str, float]]],
    benchmark: BenchmarkFixture,
) -> None:
    if not measure.knows("--cache-views"):
        pytest.skip("this version of finetune has no --cache-views")
    workers, _ = tutorial_workers(workload)
    rounds: list[dict[str, Any]] = []

    def measure_round() -> None:
        cache = f"cache-{len(rounds)}"
        views = {"variants": "B,C", "precision": "fp32"}  # as theirs, so that what is kept alone differs
        rounds.append(
            {
                "one": run_ours(f"{cache}-one", cache_views=1, **views),
                "theirs": theirs("tutorial", with_options(workload.arguments, workers=workers, variants="C")),
                # With fresh views in every epoch, what is kept serves the second seed.
                "all": run_ours(f"{cache}-all", cache_views=workload.epochs, seeds=2, **views),
            }
        )
        figures.save(
            f"cached/{workload.name}",
            figures.cached_prefix(rounds),
            rounds,
            workers=workers,
            arguments=workload.arguments,
        )

    benchmark.pedantic(measure_round, rounds=ROUNDS)
