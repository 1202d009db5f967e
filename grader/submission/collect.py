"""Which submissions the paths on the command line stand for."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from grader.errors import UsageError
from grader.submission.load import CONFIG_NAME, RESULTS_NAME
from grader.submission.opened import ARCHIVES, IGNORED

FEWEST = 2  # submissions in each of several folders, from which on these are folders of submissions


@dataclass(frozen=True)
class Collected:
    """The submissions.

    Attributes:
        paths: Run folders, results files, zip files, and folders that contain one of these.
        folders: The folders of submissions that these are in; empty if they were given one by one.
        ignored: Names of other files in them.
    """

    paths: list[Path]
    folders: tuple[Path, ...] = ()
    ignored: tuple[str, ...] = ()


def collect(paths: Sequence[Path]) -> Collected:
    """The submissions that paths stand for.

    Several paths are one submission each. So is a single one, unless it is a folder without results.json and
    config.toml, but with folders or archives: then each of these is a submission. If each of several paths is
    such a folder, and at least two submissions can be seen in it, all of these are submissions: the folders
    are sections of a class. Links and hidden entries are none.
    """
    found = [_submissions_in(path) for path in paths]
    sections = [section for section in found if section is not None]
    if len(paths) != len(sections) or not paths:
        return Collected(list(paths))
    if len(paths) > 1 and any(sum(map(_is_seen, section.paths)) < FEWEST for section in sections):
        return Collected(list(paths))
    return Collected(
        [path for section in sections for path in section.paths],
        tuple(paths),
        tuple(name for section in sections for name in section.ignored),
    )


def _submissions_in(folder: Path) -> Collected | None:
    """The submissions in a folder and the other files there; None if it is no folder of submissions."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (OSError, ValueError):
        return None  # the grade will say why it cannot be read
    if {RESULTS_NAME, CONFIG_NAME} & {entry.name for entry in entries}:
        return None
    found, ignored = [], []
    for entry in entries:
        is_hidden = entry.name.startswith(".") or entry.name == IGNORED
        is_archive = entry.name.lower().endswith((".zip", *ARCHIVES))
        if not is_hidden and not entry.is_symlink() and (is_archive or entry.is_dir()):
            found.append(Path(entry.path))
        elif not is_hidden:
            ignored.append(entry.name)
    return Collected(found, ignored=tuple(ignored)) if found else None


def _is_seen(path: Path, depth: int = 1) -> bool:
    """Whether a path is an archive, or a folder with a run or an archive in it or in one of its folders."""
    if path.name.lower().endswith((".zip", *ARCHIVES)):
        return True
    try:
        entries = [entry for entry in os.scandir(path) if not entry.is_symlink()]
    except OSError:
        return False
    if any(entry.name in (RESULTS_NAME, CONFIG_NAME) for entry in entries):
        return True
    return depth > 0 and any(
        _is_seen(Path(entry.path), depth - 1)
        for entry in entries
        if entry.is_dir() or entry.name.lower().endswith(".zip")
    )


def require_elsewhere(outputs: Sequence[Path], collected: Collected) -> None:
    """Refuse to write grades among the submissions, where the next run would grade them.

    Raises:
        UsageError: A path is in a folder of submissions.
    """
    for output in outputs:
        for folder in collected.folders:
            if Path(os.path.abspath(output)).is_relative_to(os.path.abspath(folder)):  # noqa: PTH100
                raise UsageError(
                    f"--output {output} is in the folder of submissions; write the grades elsewhere."
                )
