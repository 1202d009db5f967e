"""Files that are either whole or not there, and the lock on a run folder."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from finetune.errors import RunFolderError


def write_atomically(path: Path, content: bytes) -> str:
    """Write a file beside its place, sync it, rename it into its place and sync the folder; its SHA-256.

    Raises:
        RunFolderError: the disk is full or the folder cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)  # of a process that was killed, or a link that leads elsewhere
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):  # what stopped the writing may stop this too
            partial.unlink(missing_ok=True)
        raise RunFolderError(
            f"{path} cannot be written ({error.strerror}); make room or name another folder with --out."
        ) from error
    return hashlib.sha256(content).hexdigest()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder for this process alone.

    The kernel drops the lock when the process ends, however it ends, so a lock is never stale.

    Raises:
        RunFolderError: another process holds it, or the folder cannot be written.
    """
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise RunFolderError(
            f"The run folder {folder} cannot be written ({error.strerror}); name another with --out."
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunFolderError(
                f"Only one process may use a run folder, but another one is using {folder}; "
                "wait for it or name another with --out."
            ) from error
        yield
    finally:
        os.close(handle)
