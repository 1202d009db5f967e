"""Recompute predictions from the checkpoints, in an isolated process: the only step that needs torch."""

import copy
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grader.errors import UnusableError
from grader.reading.files import MAX_CSV_BYTES, read_bytes
from grader.reading.truth import Truth
from grader.submission.checkpoints import MAX_CHECKPOINT_BYTES, MAX_TOTAL_BYTES
from grader.submission.load import RESULTS_NAME, Submission
from grader.submission.record import SPLITS
from grader.submission.recorded_files import RecordedFiles

if TYPE_CHECKING:
    from grader.submission.predictions import Predictions

TIMEOUT_SECONDS = 3600

RECOMPUTED_NAME = "recomputed.json"
"""What `finetune evaluate` writes about the starts and streams of the runs."""

MAX_RECOMPUTED_BYTES = 4 * 1024 * 1024

PACKAGES = Path(__file__).resolve().parents[2]
"""The folder of this grader and of the `finetune` next to it; a submission cannot replace either."""

_START = (
    "import sys; home = sys.argv.pop(1); home in sys.path or sys.path.insert(0, home); "
    "from finetune.cli import main; main()"
)

# The environment variables that the evaluation inherits; in particular, none of Python's own.
_VARIABLES = {"PATH", "HOME", "LANG", "LANGUAGE", "TZ", "XDG_CACHE_HOME", "LD_LIBRARY_PATH"}
_PREFIXES = ("LC_", "OMP_", "GOMP_", "KMP_", "MKL_", "CUDA_", "NVIDIA_")


@dataclass(frozen=True)
class Rerun:
    """The outcome of recomputing the predictions.

    Attributes:
        checkpoints: The problems of each checkpoint, by path.
        predictions: Recomputed predictions by run name and split.
        failure: Why there are no predictions; empty if there are.
        is_offline: Whether the evaluation had no network.
        recomputed: What seed, weights and images determine before training, by run name.
        environment: The machine and the library versions of the evaluation.
        trials: Start and stream of each trial, in the order of the results.
    """

    checkpoints: Mapping[str, Sequence[str]]
    predictions: "Mapping[tuple[str, str], Predictions]" = field(default_factory=dict)
    failure: str = ""
    is_offline: bool = True
    recomputed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    trials: Sequence[Mapping[str, Any]] = ()

    @property
    def truth(self) -> Truth | None:
        """Labels and splits of the evaluated images; None if there are none."""
        labels: dict[str, int] = {}
        splits: dict[str, frozenset[str]] = {}
        # Every run was evaluated on the same images; true-splits judges no splits that differ between seeds.
        for (_, split), rows in self.predictions.items():
            labels.update(zip(rows.sample_ids, rows.labels.tolist(), strict=True))
            splits[split] = frozenset(rows.sample_ids)
        return Truth(labels, splits, "the local data set") if labels else None


def rerun(submission: Submission, dataset: str | None = None, data_root: Path | None = None) -> Rerun:
    """Verify the checkpoints' hashes, then evaluate the checkpoints with `finetune evaluate`.

    The evaluation runs in a temporary folder that contains the validated results file and the verified
    checkpoints, and has access to nothing else of the submission.

    Args:
        submission: The run.
        dataset: Value of `finetune evaluate --dataset`; None means the recorded data set, which must not
            be an image folder.
        data_root: Folder that contains downloaded data sets; None means `data`.

    Returns:
        The recomputed predictions, or why there are none.
    """
    with tempfile.TemporaryDirectory(prefix="grader-") as name:
        folder = Path(name).resolve()
        checkpoints = _stage(submission, folder / "run")
        if not checkpoints:
            return Rerun({}, failure="The submission contains no checkpoints.")
        if any(checkpoints.values()):
            return Rerun(checkpoints, failure="A checkpoint is not the recorded one.")
        options = ["--data-root", str((data_root or Path("data")).absolute())]
        options += ["--dataset", dataset] if dataset else []
        failure = call(["evaluate", "run", "--output", "fresh", *options], folder)
        predictions = {} if failure else _read(submission, folder / "fresh")
        known: dict[str, Any] = {}
        path = folder / "fresh" / RECOMPUTED_NAME
        if not failure and path.exists():
            known = json.loads(read_bytes(path, path.name, MAX_RECOMPUTED_BYTES))
    runs, environment, trials = (known.get(key, {}) for key in ("runs", "environment", "trials"))
    return Rerun(checkpoints, predictions, failure, bool(_offline()), runs, environment, [*trials])


def _stage(submission: Submission, folder: Path) -> dict[str, list[str]]:
    """Copy the results file and the verified checkpoints to `folder`; checkpoints get new names.

    Returns:
        The problems of each checkpoint, by path; empty if the submission contains no checkpoint at all.
    """
    (folder / "checkpoints").mkdir(parents=True)
    document = copy.deepcopy(dict(submission.document))
    problems: dict[str, list[str]] = {}
    any_exists, files = False, RecordedFiles(submission.folder, MAX_CHECKPOINT_BYTES, MAX_TOTAL_BYTES)
    for run, entry in zip(submission.results.runs, document["runs"], strict=True):
        if run.artifacts is None:
            continue
        artifact, staged = run.artifacts.checkpoint, f"checkpoints/{run.name}.safetensors"
        entry["artifacts"]["checkpoint"]["path"] = staged
        found = problems.setdefault(artifact.path, [])
        any_exists = any_exists or os.path.lexists(submission.folder / artifact.path)
        try:
            (folder / staged).write_bytes(files.read(artifact, run.name))
        except UnusableError as error:
            found.extend(error.problems)
    (folder / RESULTS_NAME).write_text(json.dumps(document), "utf-8")
    return problems if any_exists else {}


def call(arguments: Sequence[str], folder: Path) -> str:
    """Run `finetune` in `folder`, isolated; returns why it failed, or an empty string."""
    if importlib.util.find_spec("torch") is None or not (PACKAGES / "finetune").is_dir():
        return "torch is not installed; install this package with its extra `train`."
    (folder / "temporary").mkdir()
    variables = {k: v for k, v in os.environ.items() if k in _VARIABLES or k.startswith(_PREFIXES)}
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and the paths are arguments
            [*_offline(), sys.executable, "-E", "-P", "-c", _START, str(PACKAGES), *arguments],
            cwd=folder,
            env={**variables, "TMPDIR": str(folder / "temporary")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"finetune {arguments[0]} did not finish ({type(error).__name__})."
    if done.returncode == 0:
        return ""
    message = done.stderr.replace(f"{folder}/", "").strip().splitlines() or ["no message"]
    return f"finetune {arguments[0]} exited with code {done.returncode}: {message[-1][:300]}"


@cache
def _offline() -> tuple[str, ...]:
    """A command prefix that removes network access; empty if the system does not permit it.

    A user namespace (-r) is the second choice, because root in one cannot read other users' files.
    """
    unshare = shutil.which("unshare", path=os.defpath)
    for option in ("-n", "-rn") if unshare else ():
        prefix = (str(unshare), option)
        done = subprocess.run([*prefix, prefix[0], "--version"], capture_output=True, check=False)  # noqa: S603
        if done.returncode == 0:
            return prefix
    return ()


def _read(submission: Submission, folder: Path) -> "dict[tuple[str, str], Predictions]":
    from grader.submission.predictions import parse_predictions

    results = submission.results
    found = {}
    for run in results.runs:
        for split in SPLITS:
            path = folder / f"{run.name}-{split}.csv"
            if path.exists():
                content = read_bytes(path, path.name, MAX_CSV_BYTES)
                counts = [results.splits_of(run.seed)[split].n_samples]
                found[run.name, split] = parse_predictions(content, path.name, counts, len(results.classes))
    return found
