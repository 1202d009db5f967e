"""What the tests on a GPU share: the device, the marker, and a record of which tests have passed.

`GPU_DEVICE=cpu` runs them dry, on the CPU: the same code, so that a mistake in a test shows without a GPU.
A test that has passed at this commit on this device is not run again, so a run that was cut off continues.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.gpu import record

os.environ.setdefault(
    "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
)  # before cuBLAS is loaded, as --deterministic wants

HERE = Path(__file__).parent


def _of_this_state(entry: dict[str, Any]) -> bool:
    about = record.surroundings()
    return all(entry["about"].get(name) == about.get(name) for name in ("commit", "gpu", "versions"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = [item for item in items if HERE in item.path.parents]
    for item in here:
        item.add_marker(pytest.mark.gpu)
    before = record.load().get("check")
    if not here or before is None or not _of_this_state(before) or os.environ.get("GPU_AGAIN"):
        return
    passed = [item for item in here if before["outcomes"].get(item.nodeid) == "passed"]
    config.hook.pytest_deselected(items=passed)
    items[:] = [item for item in items if item not in passed]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    given: Any = yield
    report = given.get_result()
    if not (report.when == "call" or report.outcome != "passed"):
        return
    if report.skipped and not _can_run():
        return
    before = record.load().get("check")
    outcomes = before["outcomes"] if before and _of_this_state(before) else {}
    outcomes[item.nodeid] = report.outcome
    record.save("check", {"about": record.surroundings(), "outcomes": outcomes})


def _can_run() -> bool:
    import torch

    return record.DRY or torch.cuda.is_available()


@pytest.fixture(scope="session")
def device() -> Any:
    """The device that is tested; without a GPU the test is skipped, unless the run is dry."""
    import torch

    if not _can_run():
        pytest.skip("needs a CUDA device; GPU_DEVICE=cpu runs it dry on the CPU")
    return torch.device(record.DEVICE)


@pytest.fixture(autouse=True)
def _as_found(device: Any) -> Iterator[None]:  # noqa: ARG001 - skips where there is none
    """Leave flags and random states as they were."""
    from finetune.system.session import undisturbed

    with undisturbed():
        yield
