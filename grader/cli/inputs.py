"""What an instructor's options name: labels, data sets, student ids and reference runs."""

import csv
import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from grader.errors import GraderError, UnusableError, UsageError, did_you_mean
from grader.evidence.gathered import Thresholds, gather
from grader.evidence.traces import Traces, traces_of
from grader.formats.output import MAX_NAME_BYTES
from grader.reading.files import is_inside, read_bytes
from grader.reading.strict_json import short
from grader.reading.truth import Truth, from_csv, from_flowers102
from grader.submission.load import RESULTS_NAME, load
from grader.submission.opened import opened

MAX_STUDENTS_BYTES = 4 * 1024 * 1024


def truth_from(labels: Path | None, dataset: str | None, data_root: Path) -> Truth | None:
    """True labels and splits from --labels or --dataset; None if neither gives them.

    Raises:
        UsageError: Both were given, or a file is unusable.
    """
    if labels is not None and dataset is not None:
        raise UsageError("--labels and --dataset are mutually exclusive; give one of them.")
    if labels is not None:
        return from_csv(labels)
    return from_flowers102(data_root) if dataset == "flowers102" else None


def dataset_from(dataset: str | None, rerun: bool) -> str | None:
    """Validate --dataset and make an image folder's path absolute: the evaluation runs in another folder."""
    if dataset in (None, "flowers102"):
        return dataset
    named = dataset == "digits" or dataset.startswith("imagefolder:")
    path = os.path.expanduser(dataset.removeprefix("imagefolder:"))  # noqa: PTH111
    # os.path.isdir() is false for names that the operating system does not allow; Path.is_dir() raises.
    if not path or not (named or os.path.isdir(path)):  # noqa: PTH112
        raise UsageError(
            f"--dataset must be flowers102, digits or an existing folder of images, not {short(dataset)}."
            + did_you_mean(dataset, ("flowers102", "digits"))
        )
    if not rerun:
        raise UsageError(f"--dataset {short(dataset)} requires --rerun; without it, use --labels.")
    return dataset if dataset == "digits" else f"imagefolder:{os.path.abspath(path)}"  # noqa: PTH100


def require_outside(inputs: Mapping[str, Path | None], submissions: Sequence[Path]) -> None:
    """Refuse to grade a submission by files that are part of it.

    Raises:
        UsageError: An input is inside a submission.
    """
    for submission in submissions:
        folder = submission.parent if submission.name == RESULTS_NAME else submission
        for option, path in inputs.items():
            if path is not None and is_inside(path, folder):
                raise UsageError(
                    f"{option} {short(path)} is inside the submission {short(folder)}, "
                    "whose author may have changed it; use your own copy."
                )


def students_from(path: Path, names: Sequence[str]) -> list[str]:
    """The id of the student who made each submission.

    Args:
        path: A CSV file with the columns submission (folder or zip file, without its suffix) and student.
        names: The names of the submissions.

    Raises:
        UsageError: The file is unreadable or malformed, an id cannot be a file's name or stands for two
            submissions, or a submission is missing.
    """
    try:
        text = read_bytes(path, str(path), MAX_STUDENTS_BYTES, follow=True).decode("utf-8-sig")
    except (GraderError, UnicodeDecodeError) as error:
        raise UsageError(f"--students cannot be read: {error}") from error
    rows = csv.DictReader(text.splitlines())
    if not {"submission", "student"} <= set(rows.fieldnames or ()):
        raise UsageError(f"--students {path}: the header must contain submission and student.")
    ids: dict[str, str] = {}
    for row in rows:
        name, student = (row["submission"] or "").strip(), (row["student"] or "").strip()
        usable = student.isprintable() and "/" not in student and len(student.encode()) <= MAX_NAME_BYTES
        if not name or name in ids or student in ("", ".", "..") or not usable:
            rule = "each line must have a unique submission, and an id that can name a file"
            raise UsageError(
                f"--students {path}, line {rows.line_num}: {rule}, found {short(name)}, {short(student)}."
            )
        ids[name] = student
    missing = [short(name) for name in names if name not in ids]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UsageError(f"--students {path} lacks the submissions {', '.join(missing[:3])}{more}; add them.")
    found = [ids[name] for name in names]
    same = [unicodedata.normalize("NFC", student) for student in found]  # as --seed-from reads it
    twice = next((student for student, form in zip(found, same, strict=True) if same.count(form) > 1), None)
    if twice is not None:
        raise UsageError(f"--students {path}: {short(twice)} has several submissions; grade one of them.")
    return found


def reference_runs(paths: Sequence[Path]) -> dict[str, Traces]:
    """The traces of the instructor's runs, by name.

    Raises:
        UsageError: One cannot be read.
    """
    found = {}
    for path in paths:
        try:
            with opened(path) as (folder, shown):
                found[f"reference {path.name}"] = traces_of(gather(load(folder, shown), Thresholds()))
        except UnusableError as error:
            raise UsageError(f"--reference: {error}") from error
    return found
