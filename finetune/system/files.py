"""Files that are either complete or absent, the lock on a run folder, and sizes in words."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from finetune.errors import ConfigError, RunFolderError

UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12}


def write_atomically(path: Path, content: bytes) -> str:
    """Write a file completely or not at all.

    Returns:
        The content's SHA-256.

    Raises:
        RunFolderError: the disk is full or the folder is not writable.
    """
    with temporary(path) as partial:
        partial.write_bytes(content)
        publish(partial, path)
    return hashlib.sha256(content).hexdigest()


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, in a folder that is created if necessary; removed unless published.

    Raises:
        RunFolderError: `path` is a folder or a device, or an OSError inside, such as a full disk.
    """
    if path.exists() and not path.is_file():  # else root would replace /dev/null by a file
        what = "a folder" if path.is_dir() else "a device or a pipe"
        raise RunFolderError(
            f"{path} must be a new or an existing file, but it is {what}; choose another name with --out."
        )
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)  # left by a killed process, or a link to somewhere else
        partial.touch(exist_ok=False)
        yield partial
    except OSError as error:
        denied = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        remedy = "" if denied else "free disk space (--resume continues a training) or "
        raise RunFolderError(
            f"{path} cannot be written ({error.strerror}); {remedy}choose another folder with --out."
        ) from error
    finally:
        with suppress(OSError):  # may fail for the same reason as what went before
            partial.unlink(missing_ok=True)


def publish(partial: Path, path: Path) -> None:
    """Sync a complete temporary file, rename it to its final name, and sync the folder."""
    _sync(partial)
    partial.replace(path)
    _sync(path.parent)


def bytes_below(folder: Path) -> int:
    """The sizes of all files in a folder and those below it; 0 if there is no such folder."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # removed meanwhile
                total += (Path(parent) / name).lstat().st_size
    return total


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder for this process alone.

    The kernel releases the lock when the process ends, however it ends, so it is never stale.

    Raises:
        RunFolderError: another process holds the lock, or the folder is not writable.
    """
    # On a file system without locks, filelock's substitute could outlive a killed process.
    lock = FileLock(folder / ".lock", blocking=False, fallback_to_soft=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise RunFolderError(
            f"Only one process at a time may use a run folder, but another one is using {folder}; wait for "
            "it or choose another folder with --out."
        ) from error
    except OSError as error:
        raise RunFolderError(
            f"The run folder {folder} cannot be written ({error.strerror}); choose another folder with --out."
        ) from error
    try:
        yield
    finally:
        lock.release()


def parse_size(text: str, name: str) -> int:
    """Bytes of a size such as `500MB` or `1.5 GB`; units are decimal.

    Args:
        text: the size.
        name: what it is the size of, for the message.

    Raises:
        ConfigError: it is not a number with a unit.
    """
    match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*(MB|GB|TB)\s*", text.upper(), re.ASCII)
    if match is None:
        raise ConfigError(
            f"{name} must be a number with MB, GB or TB, such as 500MB or 10GB, but {text!r} was given."
        )
    return int(float(match[1]) * UNITS[match[2]])
