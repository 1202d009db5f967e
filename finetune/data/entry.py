"""A store on disk: a folder of NumPy files and an `entry.json` with their digests, checked when it is opened.

Nothing is synced: what a power cut damages is found when the entry is opened, and is decoded again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.data.augment import Pixels
from finetune.data.store import StoredImages, decode, reserve
from finetune.data.stream import StreamedImages, byte_counts
from finetune.system.host import cores

FORMAT = 1
CHUNK_BYTES = 16 << 20
"""Digests are made of pieces of this size, so that threads can share the work."""

ENTRY = "entry.json"
PIXELS = "pixels.npy"
SIZES = "sizes.npy"
PARTIAL = ".partial"


def open_entry(entry: Path, in_memory: Callable[[int], bool]) -> StoredImages | None:
    """An entry whose every byte has been checked; None if there is none, and a damaged one is removed.

    Args:
        entry: its folder.
        in_memory: whether that many bytes are to be read into memory rather than mapped.
    """
    try:
        described: dict[str, Any] = json.loads((entry / ENTRY).read_text("utf-8"))
        sizes = np.load(entry / SIZES)
        n_bytes = int(byte_counts(sizes).sum())
        # Private pages ("c"), since PyTorch wants memory that may be written to.
        pixels = np.load(entry / PIXELS, mmap_mode=None if in_memory(n_bytes) else "c")
        whole = pixels.shape == (n_bytes,) and described == _described(sizes, pixels)
        os.utime(entry / ENTRY)
    except MemoryError:
        raise
    except Exception:  # whatever the readers make of damaged bytes; NumPy's lets a tokenizer's error through
        whole = False
    if not whole:
        remove(entry)
        return None
    return StoredImages(pixels, sizes)


def _described(sizes: npt.NDArray[np.int64], pixels: Pixels) -> dict[str, Any]:
    """An entry's description: everything that `open_entry` checks."""
    chunks = [pixels[i : i + CHUNK_BYTES] for i in range(0, len(pixels), CHUNK_BYTES)]
    with ThreadPoolExecutor(cores()) as pool:
        digests = list(pool.map(_digest, chunks))
    return {"format": FORMAT, "n_images": len(sizes), "sizes": _digest(sizes), "pixels": digests}


def _digest(values: npt.NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()


def keep(store: StoredImages, entry: Path) -> str:
    """Write a store's entry; why that was not possible, empty if it was."""
    try:
        free = shutil.disk_usage(entry.parent).free
        if free < 2 * store.pixels.nbytes:
            return f"{entry.parent} would have too little room left ({free / 1e9:.1f} GB are free)"
        partial = _partial(entry)
        np.save(partial / PIXELS, store.pixels)
        _seal(partial, store.sizes, store.pixels)
    except OSError as error:
        remove(_partial_path(entry))
        return f"{entry.parent} cannot hold them ({error.strerror or error})"
    return ""


def decode_to_disk(stream: StreamedImages, entry: Path, tick: Callable[[int], None]) -> StoredImages:
    """Decode straight into an entry's file and open it."""
    partial = _partial(entry)

    def in_file(n_bytes: int) -> Pixels:
        array = np.lib.format.open_memmap(partial / PIXELS, "w+", np.uint8, (n_bytes,))
        with (partial / PIXELS).open("r+b") as file:
            reserve(file.fileno(), os.fstat(file.fileno()).st_size)
        return array

    try:
        store = decode(stream, tick, in_file)
        _seal(partial, store.sizes, store.pixels)
    finally:
        remove(partial)
    return StoredImages(np.load(entry / PIXELS, mmap_mode="c"), store.sizes)


def remove(path: Path) -> None:
    """Remove a folder, or the file or link that stands in its place; what cannot be removed stays."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _partial_path(entry: Path) -> Path:
    return entry.with_name(entry.name + PARTIAL)


def _partial(entry: Path) -> Path:
    """An empty folder to write an entry in."""
    partial = _partial_path(entry)
    remove(partial)  # of a process that was killed
    partial.mkdir()
    return partial


def _seal(partial: Path, sizes: npt.NDArray[np.int64], pixels: Pixels) -> None:
    """Write the description and put the entry in its place."""
    np.save(partial / SIZES, sizes)
    (partial / ENTRY).write_text(json.dumps(_described(sizes, pixels)), "utf-8")
    partial.rename(partial.with_name(partial.name.removesuffix(PARTIAL)))
