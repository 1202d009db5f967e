"""Stop after any step, crash at any instant, and go on to the same result.

`RUN/state/` holds the run under way: after each epoch, and every few minutes within one, a file with the
network, the optimizer's momentum and the history; the last two are kept. Nothing random has a state to keep:
order, crops and flips are functions of (seed, epoch, sample). A file's name ends in the first digits of its
SHA-256, so a damaged one is recognised and the one before it is taken. Training goes on while a copy is
written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from finetune.errors import RunFolderError
from finetune.network.weights import State
from finetune.system.files import write_atomically
from finetune.training.evaluate import Metrics, Predictions
from finetune.training.trainer import Epoch, Pass, Trainer, Training

KEPT = 2


DTYPES = {torch.float32: "F32", torch.int64: "I64"}
"""What a checkpoint's tensors are: parameters, momentum, statistics and losses; counters and classes."""

Part = bytes | memoryview


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU, in the order in which it lies: a fraction of the time that plain order takes."""
    return torch.empty_like(tensor, device="cpu").copy_(tensor.detach())


class Checkpoints:
    """The checkpoints of one variant with one seed.

    Args:
        folder: where they lie; made when the first is written.
        stem: what their names begin with.
    """

    def __init__(self, folder: Path, stem: str) -> None:
        self.folder = folder
        self.stem = stem
        self._bests: deque[int] = deque(maxlen=KEPT)  # the epochs that the checkpoints kept refer to
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def flush(self) -> None:
        """Wait until all files are written.

        Raises:
            RunFolderError: one cannot be.
            RuntimeError: there is too little memory, as PyTorch says it.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def check(self) -> None:
        """Raise what kept a file from being written, if that is known by now."""
        if self._writing is not None and self._writing.done():
            self.flush()

    def best(self, epoch: int) -> bytes:
        """The safetensors file of the best epoch.

        Raises:
            RunFolderError: it is gone or damaged.
        """
        self.flush()
        content = self._undamaged_best(epoch)
        if content is None:
            raise RunFolderError(
                f"The network of {self.stem}'s best epoch, {epoch}, must be in {self.folder}, but it is gone "
                "or damaged; go on with --resume, which trains from an earlier checkpoint."
            )
        return content

    def save(self, trainer: Trainer, seconds: float) -> None:
        """Write where training stands, before it the network of a new best epoch, and drop what is older.

        It returns when a copy has been made; an error in writing it is raised by what is called next. The
        best network's name tells its epoch: a crash between the two files cannot exchange it for another.

        Args:
            trainer: between two steps, or after an epoch, and settled.
            seconds: spent on this run so far.
        """
        self.flush()
        training = trainer.training
        after_epoch = training.current.batches == 0 and len(training.epochs) > 0
        is_best = after_epoch and training.best_epoch == training.epochs[-1].epoch
        tensors = {f"network.{n}": _copy(t) for n, t in trainer.network.state_dict().items()}
        for name, parameter in trainer.network.trainable():
            momentum = trainer.optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{name}"] = _copy(momentum)
        for split, predictions in training.best_predictions.items():
            tensors[f"best.{split}.predicted"] = torch.from_numpy(predictions.predicted)
            tensors[f"best.{split}.nll"] = torch.from_numpy(predictions.nll)
        fields = {
            f.name: getattr(training, f.name)
            for f in dataclasses.fields(training)
            if f.name != "best_predictions"
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
            for name in tensors:
                tensors[name] = tensors[name].contiguous()
            if is_best:
                self._replace(_file(_part(tensors, "network.")), f"best{best:06d}")
            self._replace(_file(tensors, described), position)
            self._bests.append(best)
            kept = {
                *self._positions()[-KEPT:],
                *(path for epoch in self._bests for path in self._best_files(epoch)),
            }
            for path in set(self.folder.glob(f"{self.stem}-*")) - kept:
                path.unlink(missing_ok=True)

        self._writing = self._writer.submit(write)

    def _replace(self, content: list[Part], what: str) -> None:
        """Write a file and remove others that stand for the same."""
        written = self.folder / f"{self.stem}-{what}-{_digits(content)}.safetensors"
        write_atomically(written, *content)
        for same in set(self.folder.glob(f"{self.stem}-{what}-*.safetensors")) - {written}:
            same.unlink(missing_ok=True)

    def restore(self, trainer: Trainer) -> bool:
        """Put a fresh trainer where the newest undamaged checkpoint stands; False if there is none.

        Raises:
            RunFolderError: a file cannot be read, or is undamaged but no checkpoint of this network.
        """
        for path in reversed(self._positions()):
            content = _undamaged(path)
            if content is None:
                continue
            try:
                training, tensors = _training(content), safetensors.torch.load(content)
                best = training.best_epoch
                if best is not None and self._undamaged_best(best) is None:
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
                    f"{path} must be a checkpoint of this run, but it is none "
                    f"({type(error).__name__}: {error}); remove it to go on from the one before."
                ) from error
            self._bests.append(best or 0)
            return True
        return False

    def clear(self) -> None:
        """Remove all checkpoints of this run."""
        self.flush()
        for path in self.folder.glob(f"{self.stem}-*"):
            path.unlink(missing_ok=True)

    def _best_files(self, epoch: int) -> list[Path]:
        return sorted(self.folder.glob(f"{self.stem}-best{epoch:06d}-*.safetensors"))

    def _undamaged_best(self, epoch: int) -> bytes | None:
        return next(filter(None, map(_undamaged, self._best_files(epoch))), None)

    def _positions(self) -> list[Path]:
        return sorted(self.folder.glob(f"{self.stem}-[0-9]*-[0-9]*-*.safetensors"))


def _file(tensors: State, metadata: dict[str, str] | None = None) -> list[Part]:
    """A safetensors file's content in parts (the format's description: github.com/huggingface/safetensors).

    The library's own writer holds two more copies of all tensors, and ends the process where memory runs out.

    Args:
        tensors: in plain order.
        metadata: strings for the header.
    """
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    parts, offset = [], 0
    for name in sorted(tensors, key=lambda n: (-tensors[n].element_size(), n)):  # so that all are aligned
        tensor = tensors[name]
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
        parts.append(tensor.flatten().numpy().view(np.uint8).data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text, *parts]


def _digits(parts: Iterable[Part]) -> str:
    """What a file's name ends in."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


def _undamaged(path: Path) -> bytes | None:
    """A file's content, or None if it is not what its name says.

    Raises:
        RunFolderError: it cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunFolderError(
            f"{path} cannot be read ({error.strerror}); remove it to go on without it."
        ) from error
    return content if _digits([content]) == path.stem.rpartition("-")[2] else None


def _put(training: Training, tensors: State, trainer: Trainer) -> None:
    """Put a fresh trainer where a checkpoint stands."""
    network, momentum, best = (_part(tensors, prefix) for prefix in ("network.", "momentum.", "best."))
    wanted = {n: t.shape for n, t in trainer.network.state_dict().items()}
    if {n: t.shape for n, t in network.items()} != wanted or any(
        t.shape != wanted[n] for n, t in momentum.items()
    ):
        raise ValueError("its tensors are another network's")
    trainer.network.load_state_dict(network)
    for name, parameter in trainer.network.trainable():
        if name in momentum:
            buffer = torch.empty_like(parameter).copy_(momentum[name])
            trainer.optimizer.state[parameter]["momentum_buffer"] = buffer
    for split in trainer.images.held_out if best else ():
        predicted, nll = best[f"{split}.predicted"].numpy(), best[f"{split}.nll"].numpy()
        training.best_predictions[split] = Predictions(predicted.astype(np.int64), nll)
    trainer.resume(training)


def _part(tensors: State, prefix: str) -> State:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _training(content: bytes) -> Training:
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    fields: dict[str, Any] = json.loads(header["__metadata__"]["training"])
    for epoch in fields["epochs"]:
        epoch.update({split: Metrics(**epoch[split]) for split in ("train", "val", "test")})
    fields["epochs"] = [Epoch(**epoch) for epoch in fields["epochs"]]
    fields["current"] = Pass(**fields["current"])
    return Training(**fields)
