"""Stop after any step, and resume to the same result."""

from __future__ import annotations

import dataclasses
import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch

from finetune.config.experiment import STANDARD_VARIANTS, Variant
from finetune.errors import RunFolderError
from finetune.network.network import fingerprint
from finetune.network.resnet18 import build
from finetune.system import files
from finetune.training.checkpoint import Checkpoints
from finetune.training.features import FrozenPrefix
from finetune.training.record import Epoch, Training
from finetune.training.trainer import Trainer
from tests.builders.trainers import RECIPE, epochs_without_times, ignore_epoch, random_images, tiny_trainer

A, _, C = STANDARD_VARIANTS
LONG = dataclasses.replace(RECIPE, epochs=4)

pytestmark = pytest.mark.usefixtures("narrow")


def saved(made: Trainer, folder: Path, seconds: float) -> None:
    """Write a checkpoint and wait for it."""
    made.settle()
    kept = Checkpoints(folder, "X")
    kept.save(made, seconds)
    kept.flush()


class StoppedHere(Exception):  # noqa: N818 - no error
    """In place of a signal."""


class Counter:
    """Raises at the n-th call."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise StoppedHere


def outcome(made: Trainer, training: Training) -> dict[str, Any]:
    return {
        "epochs": epochs_without_times(training),
        "network": fingerprint(made.network.state_dict()),
        "best": training.best_epoch,
        "predictions": {
            s: (p.predicted.tolist(), p.nll.tolist()) for s, p in training.best_predictions.items()
        },
        "stream": training.stream_sha256,
        "budget": (training.steps, training.images),
    }


def saver(folder: Path, made: Trainer, checkpoints: Checkpoints | None = None) -> Any:
    """What the experiment does after each epoch."""
    checkpoints = checkpoints or Checkpoints(folder, "X")

    def ended(_: Epoch) -> None:
        made.settle()
        checkpoints.epoch_ended(made)
        checkpoints.save(made, 1.5)
        checkpoints.flush()

    return ended


def resumed(folder: Path, variant: Variant, **options: Any) -> tuple[Trainer, bool]:
    made = tiny_trainer(variant, **options)
    return made, Checkpoints(folder, "X").restore(made)


class TestExactness:
    @pytest.mark.parametrize("variant", [A, C], ids=lambda v: v.name)
    @pytest.mark.parametrize("step", [1, 2, 3, 4, 6])
    def test_after_any_step(self, tmp_path: Path, variant: Variant, step: int) -> None:
        whole = tiny_trainer(variant)
        expected = outcome(whole, whole.run(ignore_epoch))
        first = tiny_trainer(variant)
        with pytest.raises(StoppedHere):
            first.run(saver(tmp_path, first), Counter(step))
        saved(first, tmp_path, 2.0)
        second, found = resumed(tmp_path, variant)
        assert found
        assert second.training.steps == step
        assert second.training.seconds == 2.0
        assert outcome(second, second.run(saver(tmp_path, second))) == expected

    @pytest.mark.parametrize("batch", [1, 2, 4, 5, 8])
    def test_in_an_evaluation(self, tmp_path: Path, batch: int) -> None:
        whole = tiny_trainer(C)
        expected = outcome(whole, whole.run(ignore_epoch))
        first = tiny_trainer(C, batch_evaluated=Counter(batch))
        with pytest.raises(StoppedHere):
            first.run(saver(tmp_path, first))
        saved(first, tmp_path, 2.0)
        second, found = resumed(tmp_path, C)
        assert found
        assert outcome(second, second.run(ignore_epoch)) == expected

    @pytest.mark.parametrize("ended", [1, 2, 3, 4])
    def test_between_epochs_without_a_last_word(self, tmp_path: Path, ended: int) -> None:
        """As after a crash: only what was saved after the last epoch is there."""
        whole = tiny_trainer(A, LONG)
        expected = outcome(whole, whole.run(ignore_epoch))
        first = tiny_trainer(A, LONG)
        save, count = saver(tmp_path, first), Counter(ended)

        def epoch_ended(epoch: Epoch) -> None:
            save(epoch)
            count()

        with pytest.raises(StoppedHere):
            first.run(epoch_ended)
        second, found = resumed(tmp_path, A, recipe=LONG)
        assert found
        assert len(second.training.epochs) == ended
        assert outcome(second, second.run(saver(tmp_path, second))) == expected

    @pytest.mark.parametrize("step", [4, 7, 8, 10])
    def test_after_epochs_that_were_not_saved(self, tmp_path: Path, step: int) -> None:
        """Stopped in a later epoch than the best: its network was kept in memory until now."""
        whole = tiny_trainer(A, LONG)
        expected = outcome(whole, whole.run(ignore_epoch))
        first, kept, networks = tiny_trainer(A, LONG), Checkpoints(tmp_path, "X"), [""]

        def ended(_: Epoch) -> None:
            kept.epoch_ended(first)
            networks.append(fingerprint(first.network.state_dict()))

        with pytest.raises(StoppedHere):
            first.run(ended, Counter(step))
        assert not list(tmp_path.iterdir())
        best = first.training.best_epoch
        assert best is not None
        in_memory = kept.best(best)
        first.settle()
        kept.save(first, 2.0)
        assert kept.best(best) == in_memory
        assert fingerprint(safetensors.torch.load(in_memory)) == networks[best]
        second, found = resumed(tmp_path, A, recipe=LONG)
        assert found
        assert outcome(second, second.run(saver(tmp_path, second))) == expected

    def test_again_and_again(self, tmp_path: Path) -> None:
        whole = tiny_trainer(C, LONG)
        expected = outcome(whole, whole.run(ignore_epoch))
        for _ in range(100):
            made, _ = resumed(tmp_path, C, recipe=LONG)
            try:
                training = made.run(saver(tmp_path, made), Counter(2))
            except StoppedHere:
                saved(made, tmp_path, 0.0)
            else:
                break
        assert outcome(made, training) == expected

    def test_momentum_is_restored(self, tmp_path: Path) -> None:
        first = tiny_trainer(C)
        first.run(saver(tmp_path, first))
        second, _ = resumed(tmp_path, C)
        for (name, p), (_, q) in zip(first.network.trainable(), second.network.trainable(), strict=True):
            one = first.optimizer.state[p]["momentum_buffer"]
            assert torch.equal(one, second.optimizer.state[q]["momentum_buffer"]), name
            assert one.abs().sum() > 0

    def test_without_momentum(self, tmp_path: Path) -> None:
        recipe = dataclasses.replace(RECIPE, momentum=0.0)
        whole = tiny_trainer(A, recipe)
        expected = outcome(whole, whole.run(ignore_epoch))
        first = tiny_trainer(A, recipe)
        with pytest.raises(StoppedHere):
            first.run(saver(tmp_path, first), Counter(4))
        second, _ = resumed(tmp_path, A, recipe=recipe)
        assert outcome(second, second.run(ignore_epoch)) == expected


class TestFolder:
    def trained(self, folder: Path) -> Trainer:
        made = tiny_trainer(C, LONG)
        made.run(saver(folder, made))
        return made

    def positions(self, folder: Path) -> list[Path]:
        return sorted(folder.glob("X-0*"))

    def test_nothing_to_restore(self, tmp_path: Path) -> None:
        assert not resumed(tmp_path / "none", C)[1]

    def test_keeps_the_last_two_and_the_best_networks_they_refer_to(self, tmp_path: Path) -> None:
        made = self.trained(tmp_path)
        names = [p.name for p in self.positions(tmp_path)]
        assert [n[:19] for n in names] == ["X-0000000009-000003", "X-0000000012-000004"]
        assert len(list(tmp_path.iterdir())) <= 4
        assert list(tmp_path.glob(f"X-best{made.training.best_epoch:06d}-*.safetensors"))
        assert not list(tmp_path.glob("*.partial"))

    def test_the_best_network_is_the_chosen_epochs(self, tmp_path: Path) -> None:
        first = tiny_trainer(C, LONG)
        networks: list[str] = []
        save = saver(tmp_path, first)

        def ended(epoch: Epoch) -> None:
            save(epoch)
            networks.append(fingerprint(first.network.state_dict()))

        training = first.run(ended)
        assert training.best_epoch is not None
        content = Checkpoints(tmp_path, "X").best(training.best_epoch)
        assert fingerprint(safetensors.torch.load(content)) == networks[training.best_epoch - 1]

    @pytest.mark.parametrize("damage", ["flip", "cut", "empty", "remove"])
    def test_a_damaged_one_gives_way_to_the_one_before(self, tmp_path: Path, damage: str) -> None:
        whole = self.trained(tmp_path)
        expected = outcome(whole, whole.training)
        newest = self.positions(tmp_path)[-1]
        content = bytearray(newest.read_bytes())
        content[len(content) // 2] ^= 1
        changed = {"flip": bytes(content), "cut": bytes(content[:-100]), "empty": b""}
        newest.unlink() if damage == "remove" else newest.write_bytes(changed[damage])
        made, found = resumed(tmp_path, C, recipe=LONG)
        assert found
        assert len(made.training.epochs) == 3
        assert outcome(made, made.run(saver(tmp_path, made))) == expected

    @pytest.mark.parametrize("kind", ["FIFO", "folder", "gone"])
    def test_one_that_cannot_be_read_is_named(self, tmp_path: Path, kind: str) -> None:
        self.trained(tmp_path)
        newest = self.positions(tmp_path)[-1]
        newest.unlink()
        if kind == "gone":
            newest.symlink_to(tmp_path / "nowhere")
        else:
            os.mkfifo(newest) if kind == "FIFO" else newest.mkdir()
        with pytest.raises(RunFolderError, match=rf"{newest.name}.*; remove it to resume without it\.$"):
            resumed(tmp_path, C, recipe=LONG)

    def test_all_damaged_means_from_the_start(self, tmp_path: Path) -> None:
        whole = self.trained(tmp_path)
        expected = outcome(whole, whole.training)
        for path in self.positions(tmp_path):
            path.write_bytes(b"damaged")
        made, found = resumed(tmp_path, C, recipe=LONG)
        assert not found
        assert outcome(made, made.run(saver(tmp_path, made))) == expected

    def test_a_best_network_that_is_damaged_is_passed_over(self, tmp_path: Path) -> None:
        self.trained(tmp_path)
        for path in tmp_path.glob("X-best*"):
            path.write_bytes(path.read_bytes()[:-1])
        assert not resumed(tmp_path, C, recipe=LONG)[1]

    def test_another_networks_checkpoint_is_refused(self, tmp_path: Path) -> None:
        self.trained(tmp_path)
        narrower = build(C, 3, 0, None if C.init == "random" else {})
        prefix = FrozenPrefix(narrower, LONG, "fp32")
        made = Trainer(narrower, random_images(), LONG, prefix, peak=0.1, seed=0, workers=1)
        with pytest.raises(RunFolderError, match="must be a checkpoint of this run"):
            Checkpoints(tmp_path, "X").restore(made)

    def test_one_whose_best_network_is_gone_is_passed_over(self, tmp_path: Path) -> None:
        self.trained(tmp_path)
        for path in tmp_path.glob("X-best*"):
            path.unlink()
        assert not resumed(tmp_path, C, recipe=LONG)[1]

    def test_saving_the_same_position_again_replaces_it(self, tmp_path: Path) -> None:
        made = self.trained(tmp_path)
        saved(made, tmp_path, 99.0)
        again, _ = resumed(tmp_path, C, recipe=LONG)
        assert again.training.seconds == 99.0
        assert len([p for p in self.positions(tmp_path) if "-0000000012-" in p.name]) == 1

    def test_clear_leaves_other_runs_alone(self, tmp_path: Path) -> None:
        self.trained(tmp_path)
        (tmp_path / "identity.json").touch()
        (tmp_path / "X2-best000001.safetensors").touch()
        Checkpoints(tmp_path, "X").clear()
        assert sorted(p.name for p in tmp_path.iterdir()) == ["X2-best000001.safetensors", "identity.json"]


class TestWriting:
    """Files are written while training continues."""

    def after_an_epoch(self) -> Trainer:
        made = tiny_trainer(A, dataclasses.replace(RECIPE, epochs=1))
        made.run(ignore_epoch)
        made.settle()
        return made

    def checkpoints(self, folder: Path, made: Trainer) -> Checkpoints:
        kept = Checkpoints(folder, "X")
        kept.epoch_ended(made)
        return kept

    def test_training_does_not_wait_for_the_disk(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        disk = threading.Event()
        monkeypatch.setattr(files.os, "fsync", lambda _: disk.wait(10))
        made = self.after_an_epoch()
        kept = self.checkpoints(tmp_path, made)
        kept.save(made, 1.0)
        assert not list(tmp_path.glob("*.safetensors"))
        disk.set()
        kept.flush()
        assert len(list(tmp_path.glob("*.safetensors"))) == 2

    def test_what_is_written_is_the_network_of_that_moment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        disk = threading.Event()
        real = safetensors.torch.save_file
        monkeypatch.setattr(safetensors.torch, "save_file", lambda *a: (disk.wait(10), real(*a))[1])
        made = self.after_an_epoch()
        before = fingerprint(made.network.state_dict())
        kept = self.checkpoints(tmp_path, made)
        kept.save(made, 1.0)
        with torch.no_grad():
            for parameter in made.network.parameters():
                parameter.add_(1)
        disk.set()
        assert fingerprint(made.network.state_dict()) != before
        assert fingerprint(safetensors.torch.load(kept.best(1))) == before

    def test_a_full_disk_is_reported_at_the_next_step(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(files.os, "fsync", full_disk)
        kept = Checkpoints(tmp_path, "X")
        kept.save(self.after_an_epoch(), 1.0)
        kept._writer.shutdown()
        with pytest.raises(RunFolderError, match="free disk space"):
            kept.check()
        kept.check()  # once

    def test_one_at_a_time(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(files.os, "fsync", full_disk)
        kept, made = Checkpoints(tmp_path, "X"), self.after_an_epoch()
        kept.save(made, 1.0)
        with pytest.raises(RunFolderError, match="free disk space"):
            kept.save(made, 1.0)


def full_disk(_: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")
