"""Read untrusted files: regular files only, inside one folder, of limited size."""

import os
import stat
from pathlib import Path, PurePosixPath

from grader.errors import UnusableError

MAX_CSV_BYTES = 64 * 1024 * 1024  # a million rows
MAX_TOTAL_CSV_BYTES = 4 * MAX_CSV_BYTES  # of one submission; 15 runs on 6,149 images have 8 MB


def open_regular(path: Path, shown: str, follow: bool = False) -> int:
    """Open a regular file for reading without blocking on a FIFO or following a link.

    Args:
        path: The file.
        shown: How messages refer to it.
        follow: Whether the path itself may be a symbolic link; only for paths given on the command line.

    Returns:
        A file descriptor, which the caller must close.

    Raises:
        UnusableError: The path is missing, unreadable, or a link, folder, FIFO or device.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | (0 if follow else getattr(os, "O_NOFOLLOW", 0))
    if not follow and os.path.islink(path):  # noqa: PTH114 - Path.is_symlink raises on a NUL in the name
        raise UnusableError([f"{shown} is a symbolic link; replace it with the file itself."])
    try:
        # Checked before opening, because opening a device can have side effects.
        is_regular = stat.S_ISREG(path.stat().st_mode)
        handle = os.open(path, flags) if is_regular else -1
    except (OSError, ValueError) as error:
        raise UnusableError([f"Cannot read {shown}: {_reason(error)}."]) from error
    if not is_regular:
        raise UnusableError([f"{shown} is not a regular file."])
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UnusableError([f"{shown} is not a regular file."])
    return handle


def read_bytes(path: Path, shown: str, limit: int, follow: bool = False) -> bytes:
    """Read a regular file of at most `limit` bytes.

    Args:
        path: The file.
        shown: How messages refer to it.
        limit: Maximum size in bytes, checked before reading.
        follow: As in `open_regular`.

    Returns:
        The content.

    Raises:
        UnusableError: As `open_regular`, or the file is larger than `limit`.
    """
    with os.fdopen(open_regular(path, shown, follow), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(limit + 1) if size <= limit else b""
    if size > limit or len(content) > limit:
        raise UnusableError([f"{shown} has {max(size, len(content)):,} bytes; the limit is {limit:,}."])
    return content


def is_there(path: Path, shown: str) -> bool:
    """Whether a path exists, a dangling link included.

    Raises:
        UnusableError: The system does not say: a folder on the way is unreadable, or a name is too long.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise UnusableError([f"Cannot read {shown}: {_reason(error)}."]) from error
    return True


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else "invalid path"


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path is in a folder, either as written or after resolving links."""
    absolute = (os.path.abspath, os.path.realpath)
    return any(Path(of(path)).is_relative_to(of(folder)) for of in absolute)


def below(folder: Path, relative: str, shown: str) -> Path:
    """Resolve a path from a results file, which must stay inside the run folder.

    Args:
        folder: The run folder.
        relative: The path in the results file, with forward slashes.
        shown: Where the path comes from, for messages.

    Returns:
        The path inside `folder`; it need not exist.

    Raises:
        UnusableError: The path is absolute, leaves the folder, or passes through a symbolic link.
    """
    parts = PurePosixPath(relative).parts
    if not parts or relative.startswith(("/", "\\")) or ":" in parts[0] or ".." in parts or "\0" in relative:
        raise UnusableError([f"{shown}: {relative!r} must be a path inside the run folder."])
    path = folder
    for part in parts:
        path = path / part
        if os.path.islink(path):  # noqa: PTH114 - Path.is_symlink raises on a name that is too long
            raise UnusableError(
                [f"{shown}: {relative!r} passes through a symbolic link; use regular files and folders."]
            )
    return path
