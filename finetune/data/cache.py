"""The cache of decoded images, shared by all variants, seeds and later runs on the same images.

An entry's name is derived from everything its pixels depend on: the split's fingerprint (ids, labels and
contents), the image size, the entry format, and Pillow's version, since versions may decode differently.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import PIL
from filelock import FileLock, Timeout

from finetune.data.datasets import Sample
from finetune.data.entry import (
    DESCRIPTION,
    FORMAT,
    PARTIAL,
    decode_to_disk,
    open_entry,
    partial_path,
    remove,
    write_entry,
)
from finetune.data.store import StoredImages, decode
from finetune.data.stream import StreamedImages
from finetune.errors import ConfigError, RunFolderError, sized
from finetune.system.files import parse_size
from finetune.system.host import available_memory_bytes

LOCK = ".lock"
LIMIT_VARIABLE = "FINETUNE_CACHE_LIMIT"
DEFAULT_LIMIT = "10GB"
"""Twice what Flowers-102 takes at 224 pixels."""


@dataclass(frozen=True)
class Entry:
    """One entry of the cache, as `finetune data list` shows it."""

    name: str
    n_images: int
    n_bytes: int
    used_at: datetime


def cache_folder() -> Path:
    """The folder of the entries, in `XDG_CACHE_HOME` or `~/.cache` (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - never raises
    return Path(base) / "finetune" / "images"


def cache_limit() -> int:
    """The size limit of the cache in bytes: `FINETUNE_CACHE_LIMIT`, which `--cache-limit` sets, or 10 GB.

    Raises:
        ConfigError: the variable is not a size.
    """
    return parse_size(os.environ.get(LIMIT_VARIABLE) or DEFAULT_LIMIT, LIMIT_VARIABLE)


def entry_name(dataset: str, split: str, image_size: int, fingerprint: str) -> str:
    """The name of the entry of a split's images, decoded for an input size of the network."""
    digest = hashlib.sha256(f"{fingerprint} {FORMAT} {PIL.__version__}".encode()).hexdigest()
    return f"{dataset}-{split}-{image_size}px-{digest[:16]}"


def obtain(
    name: str,
    make_stream: Callable[[], StreamedImages],
    mode: str,
    hashed_at: float,
    tick: Callable[[int], None],
) -> tuple[StoredImages, str]:
    """A split's decoded images: from the cache, or decoded now and cached.

    Args:
        name: the entry's name.
        make_stream: returns the images; called only if they are not cached.
        mode: `memory`, `disk`, or `auto`: memory if they take less than half of the free memory, else disk.
        hashed_at: when hashing of the images began, seconds since the epoch. If a file changed after that,
            the images are not cached, because the entry's name might not match them.
        tick: called with a number of images as they become available.

    Returns:
        The images, and why they are not cached, empty if they are.

    Raises:
        BadImagesError: images that cannot be decoded.
        DataError: there is neither enough memory nor enough disk space.
        RunFolderError: `disk`, and the cache has no space for them.
    """

    def in_memory(n_bytes: int) -> bool:
        return mode == "memory" or (mode == "auto" and n_bytes < available_memory_bytes() // 2)

    folder = cache_folder()
    with _locked(folder, name) as problem:
        if not problem:
            store = open_entry(folder / name, in_memory)
            if store is not None:
                tick(len(store))
                return store, ""
        stream = make_stream()
        if in_memory(stream.n_bytes):
            store = decode(stream, tick, lambda n: np.empty(n, dtype=np.uint8))
            problem = problem or _changed(stream.samples, hashed_at)
            return store, problem or write_entry(store, folder / name)
        if not problem:
            try:
                store = decode_to_disk(stream, folder / name, tick)
                changed = _changed(stream.samples, hashed_at)
                if changed:
                    remove(folder / name)  # the mapping keeps the pixels until the process ends
                return store, changed
            except OSError as error:
                problem = f"{folder} cannot hold {sized(stream.n_bytes)} ({error.strerror or error})"
        if mode == "disk":
            raise RunFolderError(
                f"--store disk needs the image cache, but {problem}; free disk space, or set XDG_CACHE_HOME "
                "to another folder."
            )
        return decode(stream, tick), problem


def entries() -> list[Entry]:
    """The entries of the cache, the most recently used first."""
    found = []
    for path in (folder / DESCRIPTION for folder in _folders() if folder.suffix != PARTIAL):
        try:
            description = json.loads(path.read_text("utf-8"))
            size = sum(p.stat().st_size for p in path.parent.iterdir())
            used = datetime.fromtimestamp(path.stat().st_mtime)
            found.append(Entry(path.parent.name, int(description["n_images"]), size, used))
        except (OSError, ValueError, LookupError, TypeError):
            continue  # damaged: removed when it is next opened, or by clear()
    return sorted(found, key=lambda e: e.used_at, reverse=True)


def _folders() -> list[Path]:
    """The folders of complete and partial entries; none if the cache cannot be read."""
    try:
        return [path for path in cache_folder().iterdir() if path.suffix != LOCK]
    except OSError:
        return []


def evict(limit_bytes: int, in_use: Collection[str]) -> None:
    """Remove the least recently used entries until the cache is within its limit.

    A process that has mapped a removed entry keeps its pixels (POSIX `unlink`).

    Args:
        limit_bytes: the limit.
        in_use: names of entries that stay even if they exceed the limit.
    """
    for path in _folders():
        if path.suffix == PARTIAL:
            discard(path.stem)  # left by a killed process
    found = entries()
    excess = sum(e.n_bytes for e in found) - limit_bytes
    for entry in reversed(found):
        if excess > 0 and entry.name not in in_use and discard(entry.name):
            excess -= entry.n_bytes


def discard(name: str) -> bool:
    """Remove an entry unless another process is opening or writing it; whether it was removed."""
    path = cache_folder() / name
    with _locked(path.parent, name, blocking=False) as problem:
        if problem:
            return False
        remove(partial_path(path))
        remove(path)
        return not path.exists()


def clear(names: Sequence[str] = ()) -> int:
    """Remove the named entries, or all if none is named; the number of bytes freed.

    A run that has an entry open keeps its images until it ends.

    Raises:
        ConfigError: a name is unknown.
        RunFolderError: the cache cannot be changed.
    """
    folder = cache_folder()
    known = {e.name: e.n_bytes for e in entries()}
    for name in names:
        if name not in known:
            raise ConfigError(f"Cache entry not found: {name!r}; finetune data list shows all names.")
    try:
        for path in folder.iterdir() if folder.is_dir() else ():
            # Lock files stay: a new file would not exclude a process that holds the lock on the old one.
            if path.name in names or (not names and path.suffix != LOCK):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    except OSError as error:
        raise RunFolderError(
            f"The image cache {folder} cannot be cleared ({error.strerror}); check its permissions."
        ) from error
    return sum(n for name, n in known.items() if not names or name in names)


def _changed(samples: Sequence[Sample], hashed_at: float) -> str:
    """What to report if a file changed after hashing began, else empty; called after decoding."""
    for sample in samples:
        if isinstance(sample.content, Path):
            try:
                changed = sample.content.stat().st_ctime > hashed_at
            except OSError:  # deleted, and possibly changed before
                changed = True
            if changed:
                return "an image file changed while it was being read"
    return ""


@contextmanager
def _locked(folder: Path, name: str, *, blocking: bool = True) -> Iterator[str]:
    """Hold an entry's lock; yields the reason if that is not possible, else an empty string."""
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / f"{name}{LOCK}", blocking=blocking, fallback_to_soft=False)
            stack.enter_context(lock)
            problem = ""
        except Timeout:
            problem = "another process is using it"
        except OSError as error:
            problem = f"{folder} cannot be written ({error.strerror})"
        yield problem
