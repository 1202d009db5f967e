"""When checkpoints are written: seldom enough to cost little, and by all processes together."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.distributed.world import SingleProcess
from finetune.run import saving
from finetune.run.folder import RunFolder
from finetune.run.saving import Saving
from finetune.system.signals import StopRequest
from finetune.training.checkpoint import Checkpoints
from finetune.training.record import Epoch
from finetune.training.trainer import Trainer
from tests.builders.trainers import tiny_trainer

pytestmark = pytest.mark.usefixtures("narrow")


class Clock:
    """Epochs of ten seconds each."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Together(SingleProcess):
    """Another process's clock is a little ahead."""

    def all_reduce_max(self, *values: int) -> list[int]:
        return [max(v, 1) for v in values]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(saving, "time", made)
    return made


@pytest.fixture
def trainer() -> Trainer:
    """After its first epoch, which was the best."""
    made = tiny_trainer()

    def ended(_: Epoch) -> None:
        raise StopIteration

    with pytest.raises(StopIteration):
        made.run(ended)
    return made


def saving_to(folder: Path, world: SingleProcess | None = None, writes: bool = True) -> Saving:
    run_folder = RunFolder(folder, writes=writes)
    return Saving(
        Checkpoints(folder / "state", "X"), run_folder, StopRequest(), world or SingleProcess(), 0.0
    )


def test_after_epochs(tmp_path: Path, clock: Clock, trainer: Trainer) -> None:
    made, saved = saving_to(tmp_path), []
    for _ in range(7):
        clock.now += 10.0
        made.epoch_ended(trainer)
        saved.append(made.saved == clock.now)
    assert saved == [False, False, True, False, False, True, False]
    made.checkpoints.flush()
    assert len(list((tmp_path / "state").glob("X-0*"))) == 1


def test_within_an_epoch(tmp_path: Path, clock: Clock, trainer: Trainer) -> None:
    made = saving_to(tmp_path)
    for clock.now, saved in ((299.0, 0.0), (301.0, 301.0), (400.0, 301.0)):
        made.step_ended(trainer)
        assert made.saved == saved


@pytest.mark.parametrize("writes", [True, False])
def test_when_another_process_says_so(tmp_path: Path, clock: Clock, trainer: Trainer, writes: bool) -> None:
    """Sums are collected from all before a checkpoint is written, so that all must agree."""
    made = saving_to(tmp_path, Together(), writes)
    clock.now = 1.0
    made.epoch_ended(trainer)
    assert made.saved == 1.0
    made.checkpoints.flush()
    assert len(list((tmp_path / "state").glob("X-*"))) == (2 if writes else 0)
