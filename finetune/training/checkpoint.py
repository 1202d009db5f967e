"""Checkpoints of the run in progress: stop after any step, crash at any instant, resume to the same result.

A file holds the network, the optimizer's momentum and the training record; the last two files are kept.
Randomness is stateless (order, crops and flips are functions of seed, epoch and sample), so no generator
state is needed. A file's name ends in the first digits of its SHA-256: a damaged file is recognized, and
the one before it is used. Training continues while a file is written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from finetune.errors import RunFolderError
from finetune.network.network import State
from finetune.system.files import publish, temporary
from finetune.training.record import Epoch, Pass, Predictions, Training
from finetune.training.trainer import Trainer
from grader.errors import UnusableError
from grader.reading.files import open_regular

KEPT = 2
"""Resume points that are kept."""

N_DIGITS = 16
"""Hexadecimal digits of a file's SHA-256 in its name."""


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """A contiguous copy on the CPU; with a copy in the same memory layout first, many times faster.

    Not left to the thread that writes: its first parallel operation would start a second team of OpenMP
    threads, and with more threads than cores libgomp lets all of them sleep instead of spin between
    operations, so that training and evaluation would be slower from then on.
    """
    return torch.empty_like(tensor, device="cpu").copy_(tensor.detach()).contiguous()


def state_of(trainer: Trainer) -> State:
    """A copy of what training continues from: the network's entries, and the optimizer's momentum."""
    tensors = {f"network.{n}": t for n, t in _network_of(trainer).items()}
    for name, parameter in trainer.network.trainable():
        momentum = trainer.optimizer.state[parameter].get("momentum_buffer")
        if momentum is not None:
            tensors[f"momentum.{name}"] = _copy(momentum)
    return tensors


def _network_of(trainer: Trainer) -> State:
    return {n: _copy(t) for n, t in trainer.network.state_dict().items()}


def load_state(tensors: State, trainer: Trainer) -> None:
    """Bring a fresh trainer's network and optimizer to a state that `state_of` copied.

    Raises:
        ValueError: the state is another network's.
    """
    network, momentum = (_part(tensors, prefix) for prefix in ("network.", "momentum."))
    wanted = {n: t.shape for n, t in trainer.network.state_dict().items()}
    if {n: t.shape for n, t in network.items()} != wanted or any(
        t.shape != wanted.get(n) for n, t in momentum.items()
    ):
        raise ValueError("its tensors belong to another network")
    trainer.network.load_state_dict(network)
    for name, parameter in trainer.network.trainable():
        if name in momentum:
            buffer = torch.empty_like(parameter).copy_(momentum[name])
            trainer.optimizer.state[parameter]["momentum_buffer"] = buffer


class Checkpoints:
    """The checkpoints of one variant with one seed.

    Args:
        folder: of the files; created when the first is written.
        stem: prefix of their names.
        keeps_best: whether the network of the best epoch is kept, as a run needs it and a trial does not.
    """

    def __init__(self, folder: Path, stem: str, keeps_best: bool = True) -> None:
        self.folder = folder
        self.stem = stem
        self.keeps_best = keeps_best
        self._bests: dict[str, int] = {}  # best epochs that the kept files refer to, by position
        self._best: tuple[int, State] | None = None  # best epoch and its network, until they are written
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def flush(self) -> None:
        """Wait until all files are written.

        Raises:
            RunFolderError: one cannot be written.
        """
        writing, self._writing = self._writing, None
        try:
            if writing is not None:
                writing.result()
        finally:  # else an error would hold this frame, and this frame the error: all of training with it
            del writing

    def check(self) -> None:
        """Raise the error that stopped a file from being written, if there has been one."""
        if self._writing is not None and self._writing.done():
            self.flush()

    def best(self, epoch: int) -> bytes:
        """The network of the best epoch, as a safetensors file.

        Raises:
            RunFolderError: it was written, and its file is missing or damaged.
        """
        self.flush()
        if self._best is not None and self._best[0] == epoch:
            return safetensors.torch.save(self._best[1])
        content = self._undamaged_best(epoch)
        if content is None:
            raise RunFolderError(
                f"{self.folder} must hold the network of {self.stem}'s best epoch, {epoch}, but the file is "
                "missing or damaged; use --resume, which continues from an earlier checkpoint."
            )
        return content

    def epoch_ended(self, trainer: Trainer) -> None:
        """Remember the network if it is the best so far; the next `save` writes it.

        Args:
            trainer: after an epoch.
        """
        training = trainer.training
        if self.keeps_best and training.best_epoch == training.epochs[-1].epoch:
            self._best = training.best_epoch, _network_of(trainer)

    def save(self, trainer: Trainer, seconds: float) -> None:
        """Write a checkpoint, preceded by the network of a new best epoch, and delete older ones.

        Returns once the tensors are copied; an error in writing them is raised by the next call. The name of
        the best network's file contains its epoch, so a crash between the two files cannot mix them up.

        Args:
            trainer: between two steps or after an epoch, and settled.
            seconds: spent on this run so far.
        """
        self.flush()
        training = trainer.training
        unwritten, self._best = self._best, None
        tensors = state_of(trainer)
        for split, predictions in training.best_predictions.items():
            tensors[f"best.{split}.predicted"] = torch.from_numpy(predictions.predicted)
            tensors[f"best.{split}.nll"] = torch.from_numpy(predictions.nll)
            tensors[f"best.{split}.confidence"] = torch.from_numpy(predictions.confidence)
        fields = {
            f.name: getattr(training, f.name)
            for f in dataclasses.fields(training)
            if f.name not in ("best_predictions", "best_logits")
        }
        fields |= {
            "epochs": [dataclasses.asdict(e) for e in training.epochs],
            "current": dataclasses.asdict(training.current),
            "seconds": seconds,
        }
        described = {"training": json.dumps(fields)}
        position = f"{training.steps:010d}-{len(training.epochs):06d}"
        best = training.best_epoch or 0

        def write() -> None:
            if unwritten:
                self._replace(unwritten[1], f"best{unwritten[0]:06d}")
            self._replace(tensors, position, described)
            self._bests[position] = best
            positions = self._positions()[-KEPT:]
            known = {_position(path) for path in positions}
            self._bests = {name: epoch for name, epoch in self._bests.items() if name in known}
            kept = {
                *positions,
                *(path for epoch in self._bests.values() for path in self._best_files(epoch)),
            }
            for path in set(self.folder.glob(f"{self.stem}-*")) - kept:
                path.unlink(missing_ok=True)

        self._writing = self._writer.submit(write)

    def _replace(self, tensors: State, what: str, metadata: dict[str, str] | None = None) -> None:
        """Write a file and delete earlier versions of it."""
        with temporary(self.folder / f"{self.stem}-{what}.safetensors") as partial:
            try:
                safetensors.torch.save_file(tensors, partial, metadata)
            except SafetensorError as error:
                raise OSError(0, str(error)) from error
            with partial.open("rb") as file:
                digits = hashlib.file_digest(file, "sha256").hexdigest()[:N_DIGITS]
            written = self.folder / f"{self.stem}-{what}-{digits}.safetensors"
            publish(partial, written)
        for same in set(self.folder.glob(f"{self.stem}-{what}-*.safetensors")) - {written}:
            same.unlink(missing_ok=True)

    def restore(self, trainer: Trainer) -> bool:
        """Restore a new trainer to the state of the newest undamaged checkpoint; False if there is none.

        Raises:
            RunFolderError: a file cannot be read, or is undamaged but not a checkpoint of this network.
        """
        for path in reversed(self._positions()):
            content = _undamaged(path)
            if content is None:
                continue
            try:
                training, tensors = _training(content), safetensors.torch.load(content)
                best = training.best_epoch
                if self.keeps_best and best is not None and self._undamaged_best(best) is None:
                    continue
                _put(training, tensors, trainer)
            except (
                LookupError,
                TypeError,
                ValueError,
                AttributeError,
                RecursionError,
                SafetensorError,
            ) as error:
                raise RunFolderError(
                    f"{path} must be a checkpoint of this run, but it is not "
                    f"({type(error).__name__}: {error}); remove it to resume from the one before."
                ) from error
            self._bests[_position(path)] = best or 0
            return True
        return False

    def clear(self) -> None:
        """Delete all checkpoints of this run."""
        self.flush()
        for path in self.folder.glob(f"{self.stem}-*"):
            path.unlink(missing_ok=True)

    def _best_files(self, epoch: int) -> list[Path]:
        return sorted(self.folder.glob(f"{self.stem}-best{epoch:06d}-*.safetensors"))

    def _undamaged_best(self, epoch: int) -> bytes | None:
        return next(filter(None, map(_undamaged, self._best_files(epoch))), None)

    def _positions(self) -> list[Path]:
        return sorted(self.folder.glob(f"{self.stem}-[0-9]*-[0-9]*-*.safetensors"))


def _position(path: Path) -> str:
    """The position in training that a checkpoint's name contains, without stem and digest."""
    return "-".join(path.stem.split("-")[-3:-1])


def _undamaged(path: Path) -> bytes | None:
    """A file's content, or None if it does not match the digest in its name.

    Raises:
        RunFolderError: it cannot be read.
    """
    try:
        with os.fdopen(open_regular(path, str(path), follow=True), "rb") as file:
            content = file.read()
    except (UnusableError, OSError) as error:
        why = error.first if isinstance(error, UnusableError) else f"Cannot read {path}: {error.strerror}"
        raise RunFolderError(f"{why}; remove it to resume without it.") from error
    return content if hashlib.sha256(content).hexdigest()[:N_DIGITS] == path.stem.rpartition("-")[2] else None


def _put(training: Training, tensors: State, trainer: Trainer) -> None:
    """Bring a fresh trainer to the state of a checkpoint."""
    load_state(tensors, trainer)
    best = _part(tensors, "best.")
    for split in trainer.images.held_out if best else ():
        predicted, nll, confidence = (
            best[f"{split}.{name}"].numpy() for name in ("predicted", "nll", "confidence")
        )
        training.best_predictions[split] = Predictions(predicted.astype(np.int64), nll, confidence)
    trainer.resume(training)


def _part(tensors: State, prefix: str) -> State:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _training(content: bytes) -> Training:
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    fields: dict[str, Any] = json.loads(header["__metadata__"]["training"])
    fields["epochs"] = [Epoch.read(epoch) for epoch in fields["epochs"]]
    fields["current"] = Pass(**fields["current"])
    return Training(**fields)
