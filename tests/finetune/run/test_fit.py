"""The memory of each training: released when it has ended, without waiting for a garbage collection."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.config.experiment import STANDARD_VARIANTS
from finetune.config.tune import Tune
from finetune.errors import RunFolderError
from finetune.run.experiment import run_experiment
from finetune.system.signals import Stopped, StopRequest
from finetune.training import checkpoint
from finetune.training.trainer import Trainer
from tests.builders.config import tiny_config
from tests.builders.runs import RecordingReporter, StopAt

A, _, C = STANDARD_VARIANTS
Alive = list[int]


class Trainings:
    """Every trainer that is run: what it holds, and what earlier ones still held when it began."""

    def __init__(self) -> None:
        self.n = 0
        self.held: list[weakref.ref[Any]] = []
        self.alive_at_start: Alive = []

    def note(self, trainer: Trainer) -> None:
        self.alive_at_start.append(self.alive)
        self.n += 1
        parameters = list(trainer.network.parameters())
        self.held += map(weakref.ref, (trainer, trainer.network, trainer.optimizer, *parameters))

    @property
    def alive(self) -> int:
        return sum(held() is not None for held in self.held)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Iterator[Trainings]:
    """Those of a test during which no garbage is collected."""
    found, run = Trainings(), Trainer.run

    def noting(self: Trainer, *arguments: Any) -> Any:
        found.note(self)
        return run(self, *arguments)

    monkeypatch.setattr(Trainer, "run", noting)
    gc.disable()
    yield found
    gc.enable()


@pytest.fixture
def train(narrow_file: Path, tmp_path: Path) -> Callable[..., None]:
    """Trains A and C with options of the configuration."""

    def run(stop: StopRequest | None = None, **options: Any) -> None:
        config = tiny_config(weights=str(narrow_file), variants=(A, C), **options)
        run_experiment(config, tmp_path / "run", RecordingReporter(), stop or StopRequest())

    return run


@pytest.mark.usefixtures("narrow")
class TestMemory:
    def test_of_runs(self, train: Callable[..., None], trainings: Trainings) -> None:
        train(seeds=2)
        assert trainings.alive_at_start == [0] * 4
        assert trainings.alive == 0

    @pytest.mark.parametrize("views", [None, 2])
    def test_of_trials(self, train: Callable[..., None], trainings: Trainings, views: int | None) -> None:
        train(tune=Tune(rates=(0.01, 0.02)), epochs=2, cache_views=views)
        assert trainings.n >= 6
        assert trainings.alive_at_start == [0] * trainings.n
        assert trainings.alive == 0

    def test_of_trials_and_runs_whose_loss_is_not_finite(
        self, train: Callable[..., None], trainings: Trainings
    ) -> None:
        train(tune=Tune(rates=(0.01, 1e20)), lr=0.01)
        assert trainings.n >= 6
        assert trainings.alive_at_start == [0] * trainings.n

    @pytest.mark.parametrize("at", [2, 9])
    def test_of_one_that_is_stopped(self, train: Callable[..., None], trainings: Trainings, at: int) -> None:
        with contextlib.suppress(Stopped):
            train(StopAt(at))
        assert trainings.n == 1
        assert trainings.alive == 0

    @pytest.mark.usefixtures("saved_after_each_epoch")
    def test_of_one_whose_checkpoint_cannot_be_written(
        self, train: Callable[..., None], trainings: Trainings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise RunFolderError("no space left")

        monkeypatch.setattr(checkpoint, "publish", full)
        with contextlib.suppress(RunFolderError):
            train()
        assert trainings.n == 1
        assert trainings.alive == 0

    def test_of_one_that_a_step_ended(
        self, train: Callable[..., None], trainings: Trainings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(Trainer, "_step", broken)
        with contextlib.suppress(ZeroDivisionError):
            train()
        assert trainings.n == 1
        assert trainings.alive == 0


def test_what_is_held_is_noticed(trainings: Trainings) -> None:
    """The tests above would see a cycle."""
    parameter = torch.zeros(2)
    parameter.itself = [parameter]  # type: ignore[attr-defined]
    trainings.held.append(weakref.ref(parameter))
    del parameter
    assert trainings.alive == 1
