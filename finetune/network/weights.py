"""Pretrained weights: torchvision's, the package's, a file's or an earlier run's, safely loaded."""

from __future__ import annotations

import hashlib
import io
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import BinaryIO

import safetensors.torch
import torch
from torchvision.models import ResNet18_Weights

from finetune.errors import WeightsError, did_you_mean, listed
from finetune.network.network import State
from finetune.network.resnet18 import HEAD
from finetune.network.wrapped import HARMLESS, nested, unwrapped, why_refused
from finetune.system.download import downloading

IMAGENET_URL: str = ResNet18_Weights.IMAGENET1K_V1.url
NAMED_WEIGHTS = ("imagenet", "bundled")
PICKLED = (".pth", ".pt", ".ckpt", ".bin", ".tar")
"""Suffixes of what torch.save writes: PyTorch's, Lightning's, Hugging Face's and those of .pth.tar files."""


@dataclass(frozen=True)
class Weights:
    """A state dict that fits ResNet-18, and where it came from.

    Args:
        kind: `imagenet`, `bundled`, `file` or `run`.
        source: URL, package path or file name.
        sha256: of the file.
        state: float32 parameters and buffers by torchvision's names; `fc.*` only if it fits the classes.
        dropped: head entries left out because they have another number of classes.
        part: where the state dict was in the file and its names' prefix; empty if neither is of note.
        download_seconds: time spent fetching the file.
    """

    kind: str
    source: str
    sha256: str
    state: State = field(repr=False)
    dropped: tuple[str, ...] = ()
    part: str = ""
    download_seconds: float = 0.0


def load_weights(weights: str, shapes: dict[str, tuple[int, ...]]) -> Weights:
    """Find, read and check pretrained weights.

    Args:
        weights: `imagenet`, `bundled`, a .safetensors file, or one that torch.save wrote: a state dict, or a
            checkpoint that holds one.
        shapes: name and shape of every entry of the network that will take them.

    Raises:
        WeightsError: missing, damaged or for another network; the message lists the entries that differ.
    """
    seconds = 0.0
    if weights == "imagenet":
        kind, source = "imagenet", IMAGENET_URL
        started = time.perf_counter()
        path = fetch(IMAGENET_URL)
        seconds = time.perf_counter() - started
    elif weights == "bundled":
        kind, source = "bundled", "finetune/bundled/resnet18-tinyimagenet.safetensors"
        path = Path(str(resources.files("finetune") / "bundled" / "resnet18-tinyimagenet.safetensors"))
    else:
        kind, path = "file", Path(weights)
        source = path.name
    with open_weights(path) as file:
        content = file.read()
    state, key = state_in(content, path)
    names = {n for n in shapes if n not in HEAD and not n.endswith("num_batches_tracked")}
    state, prefix = unwrapped(state, names, path)
    state, dropped = _fitted(state, shapes, path)
    part = ", ".join([f"under {key}"] * bool(key) + [f"names after {prefix}"] * bool(prefix))
    return Weights(kind, source, _sha256(content), state, dropped, part, seconds)


def fetch(url: str) -> Path:
    """The file of a URL in torch.hub's cache, downloaded and hash-checked if it is not there.

    The file's name carries the first digits of its SHA-256, so a cached copy is checked as well.

    Raises:
        WeightsError: no network, an HTTP error, or a file that does not have its hash.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / url.rpartition("/")[2]
    ways_on = (
        f"Download {url} on another machine and put it there (TORCH_HOME sets another folder), "
        "give a file with --weights FILE, or use --weights bundled."
    )
    prefix = path.stem.rpartition("-")[2]
    if not path.is_file():
        with downloading(f"The weights file {path.name}, looked for in {folder},", ways_on, WeightsError):
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix, progress=False)
    elif not _sha256(path.read_bytes()).startswith(prefix):
        raise WeightsError(
            f"The weights file {path} must have a SHA-256 that begins with {prefix}, but it does not; "
            "it is damaged: remove it and try again."
        )
    return path


@contextmanager
def open_weights(path: Path) -> Iterator[BinaryIO]:
    """A weights file, open for reading.

    Raises:
        WeightsError: there is none, or its name has another suffix.
    """
    if path.suffix not in (".safetensors", *PICKLED):
        raise WeightsError(
            f"--weights must be imagenet, bundled, a file ({', '.join(('.safetensors', *PICKLED))}), or a "
            "run folder with a results.json, but "
            f"{str(path)!r} was given{did_you_mean(str(path), NAMED_WEIGHTS) or '.'}"
        )
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise WeightsError(
            f"The weights file {path} cannot be read ({error.strerror}); check the path."
        ) from error


def state_in(content: bytes, path: Path) -> tuple[State, str]:
    """The state dict in a weights file, and the keys that lead to it; no code from the file is run.

    Args:
        content: of the file.
        path: of the file; its suffix tells safetensors from what torch.save writes.

    Raises:
        WeightsError: damaged, or not a dictionary of tensors.
    """
    try:
        if path.suffix == ".safetensors":
            loaded = safetensors.torch.load(content)
        else:
            with warnings.catch_warnings(), torch.serialization.safe_globals(list(HARMLESS)):
                warnings.simplefilter("ignore")  # remarks on old formats and on bytes that make no sense
                loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes make the readers raise almost anything
        if refused := why_refused(error):
            raise WeightsError(
                f"The weights file {path} contains more than tensors ({refused}), and loading that could run "
                "code; save the weights alone: torch.save(model.state_dict(), 'weights.pth'); if you trust "
                "the file, torch.load(..., weights_only=False) gives you the state dict."
            ) from error
        reason = str(error).strip().split("\n")[0]
        raise WeightsError(
            f"The weights file {path} is damaged or contains more than tensors ({reason})."
        ) from error
    state, key = nested(loaded)
    entries = state.items() if isinstance(state, dict) else ()
    if not isinstance(state, dict) or not all(isinstance(k, str) and _plain(v) for k, v in entries):
        keys = listed([str(k) for k, _ in entries]) if isinstance(state, dict) else type(state).__name__
        raise WeightsError(
            f"The weights file {path} must contain a dictionary of tensors, but it contains: {keys}."
        )
    return state, key


def _plain(value: object) -> bool:
    """Whether a value is an ordinary tensor: not sparse, nested, quantized, complex or without content."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_nested
        and not value.is_quantized
        and not value.is_complex()
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _fitted(state: State, shapes: dict[str, tuple[int, ...]], path: Path) -> tuple[State, tuple[str, ...]]:
    """The entries that fit; a missing head or one of another size is left out, anything else is an error."""
    dropped = tuple(
        n
        for n in HEAD
        if n in state and (state[n].shape[:1] != shapes[n][:1] or state[n].ndim != len(shapes[n]))
    ) + tuple(n for n in state if n.startswith("fc.") and n not in HEAD)
    kept = {n: t for n, t in state.items() if n not in dropped}
    # Files of early PyTorch, torchvision's own among them, lack BatchNorm's step counter; nothing reads it.
    required = {n for n in shapes if n not in HEAD and not n.endswith("num_batches_tracked")}
    if len(dropped) < len(HEAD) and any(n in kept for n in HEAD):
        required |= set(HEAD)
    missing = sorted(required - set(kept))
    unexpected = sorted(set(kept) - set(shapes))
    misshapen = [
        f"{n} {list(t.shape)} instead of {list(shapes[n])}"
        for n, t in sorted(kept.items())
        if n in shapes and tuple(t.shape) != shapes[n]
    ]
    problems = [
        f"{word}: {listed(names)}"
        for word, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if names
    ]
    if problems:
        raise WeightsError(
            f"The weights in {path} must be those of a ResNet-18, but they are not: {'; '.join(problems)}."
        )
    # Not before the shapes are known: a small file can claim a tensor larger than memory.
    return {n: t.float() if t.is_floating_point() else t for n, t in kept.items()}, dropped
