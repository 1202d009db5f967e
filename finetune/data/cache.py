"""Decoded images kept between runs, shared by variants, seeds and whoever asks for the same later.

An entry's name tells what it was made from: the split's fingerprint (ids, labels and contents), the size, the
format's version and Pillow's, since another Pillow may decode to other pixels.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import PIL

from finetune.data.datasets import Sample
from finetune.data.entry import ENTRY, FORMAT, PARTIAL, decode_to_disk, keep, open_entry, remove
from finetune.data.store import StoredImages, decode
from finetune.data.stream import StreamedImages
from finetune.errors import ConfigError, RunFolderError, listed
from finetune.system.host import available_memory_bytes

LOCK = ".lock"


@dataclass(frozen=True)
class Entry:
    """One entry of the cache, as `finetune data list` shows it."""

    name: str
    n_images: int
    n_bytes: int
    used_at: datetime


def cache_folder() -> Path:
    """Where entries lie: below `XDG_CACHE_HOME`, or `~/.cache` (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - never raises
    return Path(base) / "finetune" / "images"


def entry_name(dataset: str, split: str, image_size: int, fingerprint: str) -> str:
    """The name of the entry that holds a split's images for a size of the network's input."""
    made_by = hashlib.sha256(f"{fingerprint} {FORMAT} {PIL.__version__}".encode()).hexdigest()
    return f"{dataset}-{split}-{image_size}px-{made_by[:16]}"


def obtain(
    name: str,
    make_stream: Callable[[], StreamedImages],
    place: str,
    since: float,
    tick: Callable[[int], None],
) -> tuple[StoredImages, str]:
    """A split's decoded images: from the cache, or decoded now and kept there for later.

    Args:
        name: of their entry.
        make_stream: gives the images; asked only where the cache has none.
        place: `memory`, `disk`, or `auto`: memory where at least as much again stays free, else disk.
        since: when the images' fingerprint was begun, seconds since the epoch: if a file changed after that,
            the images are not kept, since the entry's name would be another's.
        tick: called with a number of images as they become ready.

    Returns:
        The store, and why it was not kept, empty if it was.

    Raises:
        BadImagesError: images that cannot be decoded.
        DataError: neither memory nor disk can hold them.
        RunFolderError: `disk`, and the cache cannot hold them.
    """

    def in_memory(n_bytes: int) -> bool:
        return place == "memory" or (place == "auto" and n_bytes < available_memory_bytes() // 2)

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
            problem = problem or _changed(stream.samples, since)
            return store, problem or keep(store, folder / name)
        if not problem:
            try:
                store = decode_to_disk(stream, folder / name, tick)
                changed = _changed(stream.samples, since)
                if changed:
                    remove(folder / name)  # the mapping keeps the pixels until the process ends
                return store, changed
            except OSError as error:
                problem = f"{folder} cannot hold {stream.n_bytes / 1e9:.1f} GB ({error.strerror or error})"
        if place == "disk":
            raise RunFolderError(
                f"--store disk keeps the decoded images in a folder, but {problem}; make room, or name "
                "another folder with the variable XDG_CACHE_HOME."
            )
        return decode(stream, tick), problem


def entries() -> list[Entry]:
    """What the cache holds, the most recently used first."""
    found = []
    for path in cache_folder().glob("*/" + ENTRY):
        if path.parent.suffix == PARTIAL:
            continue
        try:
            described = json.loads(path.read_text("utf-8"))
            size = sum(p.stat().st_size for p in path.parent.iterdir())
            used = datetime.fromtimestamp(path.stat().st_mtime)
            found.append(Entry(path.parent.name, int(described["n_images"]), size, used))
        except (OSError, ValueError, LookupError, TypeError):
            continue  # damaged: dropped when it is next asked for, or by clear()
    return sorted(found, key=lambda e: e.used_at, reverse=True)


def clear(names: Sequence[str] = ()) -> int:
    """Remove entries, all of them unless some are named; the number of bytes freed.

    A run that has one open keeps it until it ends.

    Raises:
        ConfigError: a name is unknown.
        RunFolderError: the cache cannot be changed.
    """
    folder = cache_folder()
    known = {e.name: e.n_bytes for e in entries()}
    for name in names:
        if name not in known:
            raise ConfigError(
                f"Each name must be one that finetune data list shows, but {name!r} was given; "
                f"there {'is' if len(known) == 1 else 'are'} {listed(list(known)) or 'none'}."
            )
    try:
        for path in folder.iterdir() if folder.is_dir() else ():
            # A lock that someone holds would hold off nobody if its file were made anew.
            if path.name in names or (not names and path.suffix != LOCK):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    except OSError as error:
        raise RunFolderError(
            f"{folder} cannot be cleared ({error.strerror}); check its permissions."
        ) from error
    return sum(n for name, n in known.items() if not names or name in names)


def _changed(samples: Sequence[Sample], since: float) -> str:
    """What is to be said if a file changed after a moment, else empty; asked when all have been decoded."""
    for sample in samples:
        if isinstance(sample.content, Path):
            try:
                changed = sample.content.stat().st_ctime > since
            except OSError:  # it went away, and may have been another before
                changed = True
            if changed:
                return "an image changed while it was read"
    return ""


@contextmanager
def _locked(folder: Path, name: str) -> Iterator[str]:
    """Wait until no other process works on the entry; yields why that is not possible, empty if it is."""
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((folder / f"{name}{LOCK}").open("ab"))
            fcntl.flock(file, fcntl.LOCK_EX)  # the kernel drops it when the file is closed, however it is
            problem = ""
        except OSError as error:
            problem = f"{folder} cannot be written ({error.strerror})"
        yield problem
