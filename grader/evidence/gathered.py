"""Everything that checks may use, gathered once per submission."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from grader.errors import UnusableError
from grader.reading.files import MAX_CSV_BYTES, MAX_TOTAL_CSV_BYTES, below, is_there, read_bytes
from grader.statistics.proportions import PairedCounts
from grader.submission.load import Submission
from grader.submission.parts import Artifact
from grader.submission.record import SPLITS, Results, Run

if TYPE_CHECKING:  # numpy is imported only when there are predictions to read
    from grader.evidence.seeds import Prescription
    from grader.isolated.replay import Replay
    from grader.isolated.rerun import Rerun
    from grader.reading.truth import Truth
    from grader.submission.checkpoints import Checkpoint
    from grader.submission.predictions import Predictions

Key = tuple[str, str]  # a run's name and a split
Use = tuple[Run, str, Artifact]  # a run, a split and the file that the run names for it


@dataclass(frozen=True)
class Thresholds:
    """Numbers set by the policy, shares from 0 to 1, and what it requires of the experiment."""

    confidence: float = 0.95
    margin: float = 0.02
    gap_floor: float = 0.05
    require: Mapping[str, str | int | bool] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Everything known about a submission; equal only to itself, so that what follows from it can be cached.

    Attributes:
        results: The results file.
        predictions: By run name and split; only files that match their recorded SHA-256.
        altered: Problems of each recorded file, by path: it is missing or differs from the recorded SHA-256.
        has_files: Whether there were any prediction files.
        thresholds: Numbers set by the policy.
        truth: The true labels and splits, if given.
        rerun: Predictions recomputed from the checkpoints, if requested.
        replay: Epochs trained again, if requested.
        checkpoints: What the checkpoints in the submission contain, by run name.
        prescription: The seed that the course prescribes, if it does.
    """

    results: Results
    predictions: "Mapping[Key, Predictions]" = field(default_factory=dict)
    altered: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    has_files: bool = False
    thresholds: Thresholds = field(default_factory=Thresholds)
    truth: "Truth | None" = None
    rerun: "Rerun | None" = None
    replay: "Replay | None" = None
    checkpoints: "Mapping[str, Checkpoint]" = field(default_factory=dict)
    prescription: "Prescription | None" = None

    def of(self, variant: str) -> list[Run]:
        """Completed runs of a variant, ordered by seed."""
        return sorted(self.results.of(variant), key=lambda run: run.seed)

    def pairs(self, first: str, second: str) -> list[tuple[Run, Run]]:
        """Pairs of runs of two variants with the same seed."""
        others = {run.seed: run for run in self.of(second)}
        return [(run, others[run.seed]) for run in self.of(first) if run.seed in others]

    @property
    def has_images(self) -> bool:
        """Whether the images were at hand, so that every exclusion was checked against them."""
        return self.rerun is not None and bool(self.rerun.predictions)

    @cached_property
    def chosen(self) -> list[Run]:
        """All runs with a best epoch."""
        return [run for run in self.results.runs if run.best is not None]

    def rows(self, split: str) -> "Iterator[tuple[Run, Predictions]]":
        """Runs with verified predictions on a split, and those predictions."""
        for run in self.chosen:
            if found := self.predictions.get((run.name, split)):
                yield run, found

    def table(self, first: Run, second: Run) -> PairedCounts | None:
        """The 2 by 2 table of two runs on the test images; None if predictions are missing."""
        x, y = (self.predictions.get((run.name, "test")) for run in (first, second))
        if x is None or y is None or x.sample_ids != y.sample_ids:
            return None
        return paired_counts(x, y)


def paired_counts(first: "Predictions", second: "Predictions") -> PairedCounts:
    """The 2 by 2 table of two sets of predictions for the same images."""
    a, b = first.correct, second.correct
    return PairedCounts(*(int(part.sum()) for part in (a & b, a & ~b, ~a & b, ~a & ~b)))


def gather(submission: Submission, thresholds: Thresholds, truth: "Truth | None" = None) -> Evidence:
    """Read the predictions that the results file names, if they exist.

    Raises:
        UnusableError: A predictions file is malformed or unsafe to read, or a path leaves the run folder.
    """
    results = submission.results
    wanted: dict[str, list[Use]] = {}  # by path, because several runs may name one file
    for run, split in product(results.runs, SPLITS):
        if run.artifacts is not None and run.best is not None:
            artifact = run.artifacts.predictions(split)
            wanted.setdefault(artifact.path, []).append((run, split, artifact))
    files, problems = _found(submission.folder, wanted)
    if not problems and not any(files.values()):
        return Evidence(results, thresholds=thresholds, truth=truth)
    predictions: dict[Key, Predictions] = {}
    altered: dict[str, tuple[str, ...]] = dict.fromkeys(files, ())
    room = MAX_TOTAL_CSV_BYTES
    for shown, found in files.items():
        if found is None:
            altered[shown] = (f"{shown} is missing.",)
            continue
        try:
            content = read_bytes(found, shown, MAX_CSV_BYTES)
            room -= len(content)
            if room < 0:
                limit = f"{MAX_TOTAL_CSV_BYTES:,} bytes"
                raise UnusableError([f"{shown}: the prediction files have more than {limit} in total."])
            rows, digest = _parse(content, shown, results, wanted[shown]), hashlib.sha256(content).hexdigest()
        except UnusableError as error:
            problems.extend(error.problems)
            if room < 0:
                break
            continue
        for run, split, artifact in wanted[shown]:
            if digest == artifact.sha256:
                predictions[run.name, split] = rows
            else:
                altered[shown] = (f"{shown} does not match its recorded SHA-256.",)
    if problems:
        raise UnusableError(problems)
    return Evidence(results, predictions, altered, has_files=True, thresholds=thresholds, truth=truth)


def _found(folder: Path, wanted: Mapping[str, Sequence[Use]]) -> tuple[dict[str, Path | None], list[str]]:
    """The files by the path that names them, None if there is none, and problems of the paths."""
    files: dict[str, Path | None] = {}
    problems: list[str] = []
    for shown, uses in wanted.items():
        run, split, _ = uses[0]
        try:
            path = below(folder, shown, f"results.json, {run.name}, {split}")
            files[shown] = path if is_there(path, shown) else None
        except UnusableError as error:
            problems.extend(error.problems)
    return files, problems


def _parse(content: bytes, shown: str, results: Results, uses: Sequence[Use]) -> "Predictions":
    from grader.submission.predictions import header_of, parse_predictions

    # The counts differ only in a doctored file, which split-counts and distinct-runs report.
    counts = {results.splits_of(run.seed)[split].n_samples for run, split, _ in uses}
    counts |= {run.best.on(split).n_samples for run, split, _ in uses if run.best is not None}
    header = header_of(results.schema_version)
    return parse_predictions(content, shown, counts, len(results.classes), header)
