"""Which submissions the paths on the command line stand for."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from grader.errors import UsageError
from grader.load import RESULTS_NAME
from grader.opened import ARCHIVES, IGNORED

CONFIG_NAME = "config.toml"  # finetune writes it before training, so a folder with it is a run folder


@dataclass(frozen=True)
class Collected:
    """The submissions.

    Attributes:
        paths: Run folders, results files, zip files, and folders that contain one of these.
        folder: The folder of submissions; None if the submissions were given one by one.
        ignored: Names of other files in it.
    """

    paths: list[Path]
    folder: Path | None = None
    ignored: tuple[str, ...] = ()


def collect(paths: Sequence[Path]) -> Collected:
    """The submissions that paths stand for.

    Several paths are one submission each. So is a single one, unless it is a folder without results.json and
    config.toml, but with folders or archives: then each of these is a submission. Links and hidden entries
    are none.
    """
    if len(paths) != 1 or not os.path.isdir(paths[0]):  # noqa: PTH112 - Path.is_dir() raises on a NUL
        return Collected(list(paths))
    folder = paths[0]
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return Collected([folder])  # whose grade will say why it cannot be read
    if {RESULTS_NAME, CONFIG_NAME} & {entry.name for entry in entries}:
        return Collected([folder])
    found, ignored = [], []
    for entry in entries:
        is_hidden = entry.name.startswith(".") or entry.name == IGNORED
        is_archive = entry.name.lower().endswith((".zip", *ARCHIVES))
        if not is_hidden and not entry.is_symlink() and (is_archive or entry.is_dir()):
            found.append(Path(entry.path))
        elif not is_hidden:
            ignored.append(entry.name)
    return Collected(found, folder, tuple(ignored)) if found else Collected([folder])


def require_elsewhere(outputs: Sequence[Path], collected: Collected) -> None:
    """Refuse to write grades among the submissions, where the next run would grade them.

    Raises:
        UsageError: A path is in the folder of submissions.
    """
    for output in outputs if collected.folder else ():
        inside = Path(os.path.abspath(output)).is_relative_to(os.path.abspath(collected.folder or ""))  # noqa: PTH100
        if inside:
            raise UsageError(
                f"--output {output} is in the folder of submissions; write the grades elsewhere."
            )
