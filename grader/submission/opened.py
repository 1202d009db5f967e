"""From a submission as it was handed in to its run folder: nested folders, zip files."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grader.errors import UnusableError
from grader.reading.files import is_there
from grader.reading.strict_json import short
from grader.submission.load import CONFIG_NAME, RESULTS_NAME
from grader.submission.unzip import ALONE, MAX_DEPTH, nearest_run, unpack

MAX_ENTRIES = 10_000
IGNORED = "__MACOSX"
ARCHIVES = (".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")


@contextmanager
def opened(path: Path) -> Iterator[tuple[Path, str]]:
    """The run folder (or results file) of a submission, and how messages refer to it.

    A zip file is unpacked into a temporary folder, which is removed afterwards. In a folder without a results
    file the nearest one below counts; a folder that contains nothing but a zip file stands for it.

    Raises:
        UnusableError: There is no run, or there are several, or the zip file is unsafe.
    """
    shown = short(path, "", 200)
    if path.name.lower().endswith(ARCHIVES):
        raise UnusableError([f"{shown} must be a folder or a zip file; pack the run folder as zip."])
    is_folder = is_there(path, shown) and path.is_dir()
    if is_folder and not any(os.path.lexists(path / name) for name in (RESULTS_NAME, CONFIG_NAME)):
        files = _files_below(path, shown)
        zips = [name for name in files if name.lower().endswith(".zip")]
        if len(zips) > 1 and len(zips) == len(files):
            raise UnusableError(
                [f"{shown} contains {len(zips)} zip files and no {RESULTS_NAME}; submit one run. {ALONE}"]
            )
        if len(zips) != 1 or any(Path(name).name == RESULTS_NAME for name in files):
            root = path / nearest_run(files, shown)
            yield root, short(root, "", 200)
            return
        path, shown = path / zips[0], short(path / zips[0], "", 200)
    elif is_folder or not path.name.lower().endswith(".zip"):
        yield path, shown
        return
    with tempfile.TemporaryDirectory(prefix="grader-") as name:
        yield unpack(path, Path(name).resolve(), shown), shown


def _files_below(folder: Path, shown: str) -> list[str]:
    """The paths of the files in a folder and its folders, without links and hidden files."""
    found: list[str] = []
    waiting = [(folder, "", 0)]
    n_entries = 0
    while waiting:
        current, prefix, depth = waiting.pop()
        try:
            entries = sorted(os.scandir(current), key=lambda entry: entry.name)
        except OSError as error:
            raise UnusableError([f"Cannot read {shown}: {error.strerror}."]) from error
        n_entries += len(entries)
        if n_entries > MAX_ENTRIES:
            raise UnusableError(
                [f"{shown} has more than {MAX_ENTRIES:,} files; submit the run folder alone."]
            )
        for entry in entries:
            if entry.name.startswith(".") or entry.name == IGNORED or entry.is_symlink():
                continue
            if entry.is_dir(follow_symlinks=False):
                if depth < MAX_DEPTH:
                    waiting.append((Path(entry.path), f"{prefix}{entry.name}/", depth + 1))
            else:
                found.append(prefix + entry.name)
    return found
