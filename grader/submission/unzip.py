"""Unpack the run in a zip file: only what the grader reads, of limited size; no links, no odd paths."""

import io
import os
import re
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from grader.errors import UnusableError
from grader.reading.files import open_regular
from grader.reading.strict_json import short
from grader.submission.checkpoints import MAX_CHECKPOINT_BYTES, MAX_TOTAL_BYTES
from grader.submission.load import CONFIG_NAME, RESULTS_NAME, UNFINISHED, resume_hint

MAX_DIRECTORY_BYTES = 2 * 1024 * 1024  # of the list of files, which is read at once
MAX_FILES = 10_000
MAX_READ = 1024 * 1024
MAX_DEPTH = 4  # of the folder that holds the results file
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

ALONE = "If each is a submission of its own, grade this folder alone: grader FOLDER."

_READ = re.compile(rf"{re.escape(RESULTS_NAME)}|[A-Za-z0-9_-]+/[A-Za-z0-9_.-]+")
"""The files of a run folder that the grader reads: the schema allows no other paths."""

_DRIVE = re.compile(r"[A-Za-z]:")

_IGNORED = re.compile(r"(?:^|/)(?:__MACOSX/|\.)")


def unpack(path: Path, folder: Path, shown: str) -> Path:
    """Unpack the run folder in a zip file.

    Args:
        path: The zip file.
        folder: An empty folder of our own.
        shown: How messages refer to the file.

    Returns:
        The run folder, which contains its results file.

    Raises:
        UnusableError: It is no zip file, is unsafe or too large, or does not contain exactly one run.
    """
    with _Frugal(open_regular(path, shown, follow=True), shown) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = _members(archive, shown)
                root = nearest_run([name for name in members if not _IGNORED.search(name)], shown)
                _extract(archive, members, root, folder, shown)
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            ValueError,
            NotImplementedError,
            RuntimeError,
        ) as error:
            if isinstance(error, UnusableError):
                raise
            raise UnusableError(
                [f"{shown} is not a zip file, or it is damaged: {short(error, '', 100)}."]
            ) from error
        except OSError as error:
            raise UnusableError(
                [f"{shown} cannot be unpacked: {error.strerror}; TMPDIR names the folder."]
            ) from error
    return folder


class _Frugal(io.FileIO):
    """A file that refuses to be read all at once, since a list of millions of files would fill the memory."""

    def __init__(self, handle: int, shown: str) -> None:
        super().__init__(handle, "rb")
        self._shown = shown

    def read(self, size: int | None = -1, /) -> bytes:
        left = os.fstat(self.fileno()).st_size - self.tell()
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted > MAX_DIRECTORY_BYTES:
            raise UnusableError(
                [f"{self._shown}: its list of files is longer than {MAX_DIRECTORY_BYTES:,} bytes."]
            )
        return super().read(max(0, wanted)) or b""


def _members(archive: zipfile.ZipFile, shown: str) -> dict[str, zipfile.ZipInfo]:
    """The files of the archive by path, all of which are safe.

    Raises:
        UnusableError: One is not.
    """
    entries = archive.infolist()
    if len(entries) > MAX_FILES:
        raise UnusableError([f"{shown} has {len(entries):,} files; the limit is {MAX_FILES:,}."])
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        name = entry.filename.replace("\\", "/")  # as some programs on Windows write paths
        while name.startswith("./"):  # as bsdtar does, the `tar` of macOS and Windows
            name = name[2:]
        kind = stat.S_IFMT(entry.external_attr >> 16)
        where = f"{shown}, {short(name)}"
        if name.startswith("/") or ".." in name.split("/") or _DRIVE.match(name) or "\0" in name:
            raise UnusableError([f"{where}: the path leaves the folder."])
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UnusableError([f"{where} is a link or a device; use regular files and folders."])
        if not name or name.endswith("/"):
            continue
        if name in found:
            raise UnusableError([f"{where} is there twice."])
        found[name] = entry
    return found


def nearest_run(names: list[str], shown: str) -> str:
    """The folder that holds the results file nearest to the root, which must be the only one there.

    Args:
        names: Paths of files, with forward slashes.
        shown: How messages refer to the submission.

    Returns:
        The folder's path with a slash at its end; empty for the root.

    Raises:
        UnusableError: There is none, or there are several.
    """
    runs = [name.removesuffix(RESULTS_NAME) for name in names if PurePosixPath(name).name == RESULTS_NAME]
    depth = min((root.count("/") for root in runs), default=0)
    found = sorted(root for root in runs if root.count("/") == depth)
    if not found or depth > MAX_DEPTH:
        if any(PurePosixPath(name).name == CONFIG_NAME for name in names):
            raise UnusableError([f"{shown} {UNFINISHED}; {resume_hint('RUN')}"])
        raise UnusableError([f"{shown} contains no {RESULTS_NAME}; submit the whole run folder."])
    if len(found) > 1:
        listed = ", ".join(short(root.rstrip("/"), "") for root in found[:3])
        raise UnusableError([f"{shown} contains {len(found)} runs ({listed}); submit one of them. {ALONE}"])
    return found[0]


def _extract(
    archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], root: str, folder: Path, shown: str
) -> None:
    room = MAX_TOTAL_BYTES
    for name, entry in members.items():
        relative = name.removeprefix(root)
        if not name.startswith(root) or not _READ.fullmatch(relative):
            continue
        where = f"{shown}, {short(name)}"
        if entry.flag_bits & 1 or entry.compress_type not in METHODS:
            raise UnusableError([f"{where} is encrypted or packed by an unusual method; zip it plainly."])
        room -= entry.file_size
        if entry.file_size > 2 * MAX_CHECKPOINT_BYTES or room < 0:
            limit = f"{2 * MAX_CHECKPOINT_BYTES:,} bytes a file and {MAX_TOTAL_BYTES:,} in total"
            raise UnusableError([f"{where} is too large unpacked; the limits are {limit}."])
        path = folder / relative
        path.parent.mkdir(exist_ok=True)
        with archive.open(entry) as source, path.open("xb") as target:  # reads no more than its stated size
            while block := source.read(MAX_READ):
                target.write(block)
