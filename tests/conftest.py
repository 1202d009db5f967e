"""What all tests share."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from tests.machine import use_one_core

if TYPE_CHECKING:
    from finetune.system.signals import StopRequest

# As the command line has it, and before anything imports torch: spinning threads slow a busy machine down.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

for _variable in [name for name in os.environ if re.match("FINETUNE_(?!KILLS|CACHE_LIMIT)", name)]:
    del os.environ[_variable]  # a developer's own options would change what the commands under test do

# Shared machines are slow at times, and a test that fails must fail again when it is looked at.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("suite")

use_one_core()


@pytest.fixture(scope="module", autouse=True)
def _nothing_old_to_collect() -> None:
    """Keep what is there already out of garbage collections, which a job asks for after each network.

    PyTorch's modules and the collected tests are a million objects: looking at them all takes longer than
    training a tiny network.
    """
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Else nanobind's modules, such as onnx, report at exit what was kept out as leaked."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decoded images are cached in a folder of the tests' own."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


# Shared by the tests of finetune and of faults. The builders load torch, which the grader's tests must not.


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give ResNet-18 few channels, so that an experiment takes a fraction of a second."""
    from tests.builders.networks import use_narrow_network

    use_narrow_network(monkeypatch)


@pytest.fixture(scope="session")
def narrow_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file that fits the narrow network with ten classes; not to be changed."""
    from tests.builders.networks import use_narrow_network, write_weights

    with pytest.MonkeyPatch.context() as monkeypatch:
        use_narrow_network(monkeypatch)
        return write_weights(tmp_path_factory.mktemp("weights") / "narrow.safetensors")


@pytest.fixture
def narrow_weights(narrow: None, narrow_file: Path) -> Path:  # noqa: ARG001 - wanted for its effect
    """That file, with the narrow network in use; not to be changed."""
    return narrow_file


@pytest.fixture
def experiment(narrow_weights: Path) -> Callable[..., dict[str, Any]]:
    """Runs a tiny experiment with the narrow network in a folder; fields of the configuration as keywords."""
    from finetune.run.experiment import run_experiment
    from finetune.system.signals import StopRequest
    from tests.builders.config import tiny_config
    from tests.builders.runs import RecordingReporter

    def run(
        out: Path, *, stop: StopRequest | None = None, resume: bool = False, **fields: Any
    ) -> dict[str, Any]:
        config = tiny_config(**{"weights": str(narrow_weights), **fields})
        return run_experiment(config, out, RecordingReporter(), stop or StopRequest(), resume)

    return run


@pytest.fixture
def saved_after_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are written after each epoch, however short."""
    monkeypatch.setattr("finetune.run.saving.EPOCH_SECONDS", 0.0)


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared disk makes fsync take a second at times, and few tests care whether it is called."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
