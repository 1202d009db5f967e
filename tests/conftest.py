"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.machine import use_one_core

# As the command line has it, and before anything imports torch: spinning threads slow a busy machine down.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Shared machines are slow at times, and a test that fails must fail again when it is looked at.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("suite")

use_one_core()


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decoded images are kept in a folder of the tests' own."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def real_data(name: str) -> Path:
    """A folder of real images beside the repository; the test is skipped where there is none."""
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"needs ../shared/data/{name}, which is not there")
    return folder
