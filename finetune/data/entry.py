"""One entry of the image cache: a folder of NumPy files and an `entry.json` with their digests.

The digests are checked when an entry is opened, so nothing is synced: what a power cut damages is decoded
again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.data.augment import Pixels
from finetune.data.perceptual import Hashes
from finetune.data.store import StoredImages, decode, reserve
from finetune.data.stream import StreamedImages, byte_counts
from finetune.errors import sized
from finetune.system.host import cores

FORMAT = 2
CHUNK_BYTES = 16 << 20
"""Pixels are hashed in chunks of this size, by several threads."""

DESCRIPTION = "entry.json"
PIXELS = "pixels.npy"
SIZES = "sizes.npy"
HASHES = "hashes.npy"
PARTIAL = ".partial"
"""Suffix of an entry that is being written."""


def open_entry(entry: Path, in_memory: Callable[[int], bool]) -> StoredImages | None:
    """Open an entry and check every byte; None if there is none. A damaged one is removed.

    Args:
        entry: its folder.
        in_memory: whether to read that many bytes into memory instead of mapping the file.
    """
    try:
        description: dict[str, Any] = json.loads((entry / DESCRIPTION).read_text("utf-8"))
        sizes, hashes = np.load(entry / SIZES), np.load(entry / HASHES)
        n_bytes = int(byte_counts(sizes).sum())
        # Mapped copy-on-write ("c"), because PyTorch wants writable memory.
        pixels = np.load(entry / PIXELS, mmap_mode=None if in_memory(n_bytes) else "c")
        intact = pixels.shape == (n_bytes,) and description == _describe(sizes, hashes, pixels)
        _mark_used(entry)
    except MemoryError:
        raise
    except Exception:  # damaged bytes raise many things: NumPy's reader even lets a tokenizer's error through
        intact = False
    if not intact:
        remove(entry)
        return None
    return StoredImages(pixels, sizes, hashes)


def _mark_used(entry: Path) -> None:
    """Set the time of last use, by this machine's clock, which a file server's may differ from."""
    now = time.time_ns()
    os.utime(entry / DESCRIPTION, ns=(now, now))


def _describe(sizes: npt.NDArray[np.int64], hashes: Hashes, pixels: Pixels) -> dict[str, Any]:
    """The content of the description: everything that `open_entry` checks."""
    chunks = [pixels[i : i + CHUNK_BYTES] for i in range(0, len(pixels), CHUNK_BYTES)]
    with ThreadPoolExecutor(cores()) as pool:
        digests = list(pool.map(_digest, chunks))
    return {
        "format": FORMAT,
        "n_images": len(sizes),
        "sizes": _digest(sizes),
        "hashes": _digest(hashes),
        "pixels": digests,
    }


def _digest(values: npt.NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()


def write_entry(store: StoredImages, entry: Path) -> str:
    """Write decoded images as an entry; the reason if that is not possible, else empty."""
    try:
        free = shutil.disk_usage(entry.parent).free
        if free < 2 * store.pixels.nbytes:
            return f"{entry.parent} has too little free space ({sized(free)})"
        partial = _new_partial(entry)
        np.save(partial / PIXELS, store.pixels)
        _finish(partial, store)
    except OSError as error:
        remove(partial_path(entry))
        return f"{entry.parent} cannot hold {sized(store.pixels.nbytes)} ({error.strerror or error})"
    return ""


def decode_to_disk(stream: StreamedImages, entry: Path, tick: Callable[[int], None]) -> StoredImages:
    """Decode directly into an entry's file, and map it.

    Raises:
        BadImagesError: images that cannot be decoded.
        OSError: the disk is full or the folder is not writable.
    """
    partial = _new_partial(entry)

    def allocate_file(n_bytes: int) -> Pixels:
        array = np.lib.format.open_memmap(partial / PIXELS, "w+", np.uint8, (n_bytes,))
        with (partial / PIXELS).open("r+b") as file:
            reserve(file.fileno(), os.fstat(file.fileno()).st_size)
        return array

    try:
        store = decode(stream, tick, allocate_file)
        _finish(partial, store)
    finally:
        remove(partial)
    return replace(store, pixels=np.load(entry / PIXELS, mmap_mode="c"))


def remove(path: Path) -> None:
    """Remove a folder, or a file or link of its name, if possible."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def partial_path(entry: Path) -> Path:
    """Where an entry is while it is being written."""
    return entry.with_name(entry.name + PARTIAL)


def _new_partial(entry: Path) -> Path:
    partial = partial_path(entry)
    remove(partial)  # left by a killed process
    partial.mkdir()
    return partial


def _finish(partial: Path, store: StoredImages) -> None:
    """Write all but the pixels, and rename the folder to its final name."""
    np.save(partial / SIZES, store.sizes)
    np.save(partial / HASHES, store.hashes)
    description = _describe(store.sizes, store.hashes, store.pixels)
    (partial / DESCRIPTION).write_text(json.dumps(description), "utf-8")
    _mark_used(partial)
    partial.rename(partial.with_name(partial.name.removesuffix(PARTIAL)))
