"""Which file each grade is written to, for each format and run."""

import errno
import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from grader.errors import UsageError
from grader.formats import FORMATS
from grader.grading.verdict import Grade
from grader.submission.load import RESULTS_NAME

MAX_NAME_BYTES = 200
DEFAULT_FOLDER = Path("grades")


@dataclass(frozen=True)
class Target:
    """A format and its destination: a file, a folder (one file per run) or, if None, the terminal."""

    format: str
    path: Path | None
    is_folder: bool = False


def targets(formats: Sequence[str], outputs: Sequence[Path], n_runs: int) -> list[Target]:
    """Pair the formats with their destinations.

    Args:
        formats: The --format options, in order.
        outputs: The --output options, in order: none, one per format, or one folder for all. Without any,
            one run in one format, or a table of several, goes to the terminal, and all else to ./grades.
        n_runs: Number of runs; several need a folder.

    Raises:
        UsageError: The options do not fit together.
    """
    if len(set(formats)) < len(formats):
        raise UsageError("--format lists a format twice; remove one.")
    if not outputs:
        if len(formats) == 1 and (n_runs == 1 or formats[0] in ("text", "verbose")):
            return [Target(formats[0], None)]
        outputs = (DEFAULT_FOLDER,)  # more than a terminal can show
    paths = list(outputs)
    is_folder = len(paths) == 1 and (n_runs > 1 or len(formats) > 1 or paths[0].is_dir())
    if is_folder:
        paths *= len(formats)
    if len(paths) != len(formats):
        raise UsageError(
            f"{len(outputs)} --output for {len(formats)} --format; give one --output per --format."
        )
    if n_runs > 1 and not is_folder:
        raise UsageError(f"{n_runs} runs need a single --output: a folder.")
    return [Target(name, path, is_folder) for name, path in zip(formats, paths, strict=True)]


def write(grade: Grade, wanted: Sequence[Target]) -> None:
    """Write the files of one grade.

    Raises:
        UsageError: A file cannot be written.
    """
    for target in wanted:
        if target.path is not None:
            form = FORMATS[target.format]
            path = target.path / f"{grade.run}.{form.extension}" if target.is_folder else target.path
            write_file(path, form.write(grade), target.is_folder)


def folder_of(wanted: Sequence[Target]) -> Path | None:
    """The folder that files of the whole class go to; None if everything goes to the terminal."""
    paths = [target.path if target.is_folder else target.path.parent for target in wanted if target.path]
    return paths[0] if paths else None


def write_file(path: Path, text: str, make_folder: bool = True) -> None:
    """Write a file, with its folder if asked.

    Raises:
        UsageError: It cannot be written.
    """
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        _write_atomically(path, text)
    except OSError as error:
        raise UsageError(f"Cannot write --output {path}: {error.strerror}.") from error


def names_of(paths: Sequence[Path]) -> list[str]:
    """A unique name for each run, for output and file names: the last components of its folder."""
    folders = [_folder(path) for path in paths]
    for depth in range(1, 6):
        names = [_shortened("-".join(folder[-depth:]) or "run") for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [f"{name}-{number}" for number, name in enumerate(names, 1)]


def own_name(path: Path) -> str:
    """The name of a run's folder or zip file, which it may share with runs in other folders."""
    return "".join(_folder(path)[-1:])


def _shortened(name: str) -> str:
    """A name that leaves room for an extension: file systems allow 255 bytes. Longer ones get a digest."""
    encoded = os.fsencode(name)
    if len(encoded) <= MAX_NAME_BYTES:
        return name
    return f"{os.fsdecode(encoded[: MAX_NAME_BYTES - 9])}-{hashlib.sha256(encoded).hexdigest()[:8]}"


def _folder(path: Path) -> tuple[str, ...]:
    full = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would replace a link's name with its target's
    if full.name == RESULTS_NAME:
        return full.parent.parts[1:]
    is_zip = full.suffix.lower() == ".zip" and full.stem
    return (*full.parts[1:-1], full.stem if is_zip else full.name) if full.name else ()


def _write_atomically(path: Path, text: str) -> None:
    """Readers see the old content or the new, never a part.

    Raises:
        OSError: The disk is full, say, or the path is that of a device, which a file must not replace.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EEXIST, "a device or a pipe has this name")
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:50]}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).chmod(0o644)  # mkstemp's 0600 would hide the grade from other users
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
