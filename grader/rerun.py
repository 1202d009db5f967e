"""Making predictions afresh from the checkpoints: the only step that needs torch, in a process of its own."""

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from grader.errors import UnusableError
from grader.files import MAX_CSV_BYTES, below, read_bytes, sha256_of
from grader.load import Submission
from grader.record import SPLITS

if TYPE_CHECKING:
    from grader.predictions import Predictions

TIMEOUT_SECONDS = 3600


@dataclass(frozen=True)
class Rerun:
    """What came of it.

    Attributes:
        checkpoints: What is wrong with each checkpoint, by path; empty when nothing is.
        predictions: Fresh predictions by run name and split.
        failure: Why there are no predictions; empty when there are.
    """

    checkpoints: Mapping[str, tuple[str, ...]]
    predictions: "Mapping[tuple[str, str], Predictions]" = field(default_factory=dict)
    failure: str = ""


def rerun(submission: Submission, data_root: Path | None = None) -> Rerun:
    """Check the checkpoints' hashes, then evaluate them with `finetune evaluate`.

    Args:
        submission: The run.
        data_root: Where the images are, when the default is not right.

    Returns:
        The fresh predictions, or why there are none.
    """
    checkpoints = _checkpoints(submission)
    if any(checkpoints.values()):
        return Rerun(checkpoints, failure="Not made afresh, because a checkpoint is not the recorded one.")
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("finetune") is None:
        missing = "torch is not installed here; the extra `train` of this package brings it"
        return Rerun(checkpoints, failure=f"Not made afresh: {missing}.")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "finetune", "evaluate", str(submission.folder), "--output", folder]
        if data_root is not None:
            command += ["--data-root", str(data_root)]
        failure = _call(command)
        predictions = {} if failure else _read(submission, Path(folder))
    return Rerun(checkpoints, predictions, failure)


def _checkpoints(submission: Submission) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for run in submission.results.runs:
        if run.artifacts is None:
            continue
        path, recorded = run.artifacts.checkpoint.path, run.artifacts.checkpoint.sha256
        try:
            is_recorded = sha256_of(below(submission.folder, path, run.name), path) == recorded
            found[path] = () if is_recorded else (f"{path} is not the file whose SHA-256 was recorded.",)
        except UnusableError as error:
            found[path] = error.problems
    return found


def _call(command: Sequence[str]) -> str:
    """Run the command; what went wrong, or nothing."""
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and the paths are arguments
            command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"Not made afresh: finetune evaluate did not finish ({type(error).__name__})."
    if done.returncode == 0:
        return ""
    said = done.stderr.strip().splitlines() or ["no message"]
    return f"Not made afresh: finetune evaluate ended with exit code {done.returncode}: {said[-1][:300]}"


def _read(submission: Submission, folder: Path) -> "dict[tuple[str, str], Predictions]":
    from grader.predictions import parse_predictions

    results = submission.results
    found = {}
    for run in results.runs:
        for split in SPLITS:
            path = folder / f"{run.name}-{split}.csv"
            if path.exists():
                content = read_bytes(path, path.name, MAX_CSV_BYTES)
                counts = [results.splits[split].n_samples]
                found[run.name, split] = parse_predictions(content, path.name, counts, len(results.classes))
    return found
