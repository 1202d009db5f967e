"""What the benchmarks share."""

from __future__ import annotations

import pytest


@pytest.fixture
def small(request: pytest.FixtureRequest) -> bool:
    """Whether to run a tiny version that keeps nothing: everywhere but in `make bench`."""
    return not request.config.getoption("benchmark_only")


@pytest.fixture
def at_length(small: bool) -> None:
    """Skip what takes minutes, unless benchmarks were asked for."""
    if small:
        pytest.skip("takes minutes and decides nothing; make bench runs it")
