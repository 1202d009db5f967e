"""Runs as the report sees them: their results, read and judged by the grader's own code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from finetune.errors import RunFolderError
from grader.errors import UnusableError
from grader.evidence.gathered import Evidence, gather
from grader.formats.output import names_of
from grader.grading.grade import graded
from grader.grading.policy import load_policy
from grader.grading.verdict import NO_NETWORK, Grade
from grader.statistics import proportions
from grader.submission.checkpoints import read_checkpoints
from grader.submission.load import load
from grader.submission.parts import VariantConfig
from grader.submission.record import Epoch, Results, Run
from grader.submission.unfinished import is_told_how_to_finish, require_finished

POLICY = "default"


@dataclass(frozen=True)
class VariantRow:
    """The runs of one variant that have a chosen epoch, and their means.

    Args:
        name: of the variant.
        config: its row of the configuration.
        index: its place in the configuration, which decides its color and marker.
        runs: ordered by seed; at least one.
    """

    name: str
    config: VariantConfig
    index: int
    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        """The run with the first seed."""
        return self.runs[0]

    @property
    def starts_from(self) -> str:
        """Its initial weights, in words."""
        head = self.config.head
        return self.first.init if head is None else f"{self.first.init} and variant {head}'s fc"

    @property
    def trains(self) -> str:
        """The layer groups that it trains, in words."""
        if self.first.n_frozen == 0:
            return "every layer"
        groups = ", ".join(self.first.trained_groups)
        return groups if self.config.norm == "frozen" else f"{groups}; frozen layers' statistics adapt"

    @property
    def epochs(self) -> int:
        """Epochs that its first run trained."""
        return self.first.budget.epochs

    @property
    def by_epoch(self) -> dict[int, list[Epoch]]:
        """The epochs of all runs by number."""
        found: dict[int, list[Epoch]] = {}
        for run in self.runs:
            for epoch in run.epochs:
                found.setdefault(epoch.epoch, []).append(epoch)
        return found

    def accuracies(self, split: str) -> list[float]:
        """Accuracy of each run in its chosen epoch, 0 to 1."""
        return [run.best.on(split).accuracy for run in self.runs if run.best]

    def accuracy(self, split: str) -> float:
        """Mean over the seeds, 0 to 1."""
        return fmean(self.accuracies(split))

    def limits(self, split: str, confidence: float) -> tuple[float, float]:
        """Wilson's interval of a single run; of several, the lowest and the highest accuracy."""
        found = self.accuracies(split)
        if len(found) > 1 or self.first.best is None:
            return min(found), max(found)
        metrics = self.first.best.on(split)
        interval = proportions.wilson(metrics.n_correct, metrics.n_samples, confidence)
        return interval.low, interval.high

    @property
    def train_seconds(self) -> float:
        """Seconds that training took, without evaluation; mean over the seeds."""
        return fmean(sum(e.train_seconds for e in run.epochs) for run in self.runs)


@dataclass(frozen=True)
class JudgedRun:
    """One run folder: one experiment with all its variants and seeds.

    Args:
        name: what the report calls it: the end of its path.
        folder: where it is.
        document: the content of results.json.
        evidence: the results and the predictions, as the checks see them.
        grade: under the default policy, from what lies in the folder.
    """

    name: str
    folder: Path
    document: Mapping[str, Any]
    evidence: Evidence
    grade: Grade

    @property
    def results(self) -> Results:
        """The content of results.json as the grader's records."""
        return self.evidence.results

    @property
    def confidence(self) -> float:
        """Of all intervals, 0 to 1."""
        return self.evidence.thresholds.confidence

    @cached_property
    def rows(self) -> list[VariantRow]:
        """The variants that have a chosen epoch, in the order of the configuration."""
        found = []
        for index, variant in enumerate(self.results.variants):
            runs = [run for run in self.results.runs if run.variant == variant.name and run.best]
            if runs:
                found.append(
                    VariantRow(variant.name, variant, index, tuple(sorted(runs, key=lambda run: run.seed)))
                )
        return found

    def row(self, name: str) -> VariantRow | None:
        """A variant by name, if it has a chosen epoch."""
        return next((row for row in self.rows if row.name == name), None)

    @property
    def favorite(self) -> VariantRow | None:
        """The variant with predictions that has the highest validation accuracy."""
        known = [r for r in self.rows if (r.first.name, "test") in self.evidence.predictions]
        return max(known, key=lambda row: row.accuracy("val"), default=None)

    @property
    def dataset(self) -> str:
        """The data set in words: of an image folder, its name."""
        return str(self.document["config"]["dataset"].partition(":")[2] or self.results.dataset_name)


def judged(paths: Sequence[Path]) -> list[JudgedRun]:
    """Read and judge run folders; nothing outside them is read.

    Args:
        paths: run folders, or their results files.

    Raises:
        RunFolderError: the grader cannot use one of them, or it is unfinished.
    """
    return [_judged(path, name) for path, name in zip(paths, names_of(paths), strict=True)]


def _judged(path: Path, name: str) -> JudgedRun:
    policy = load_policy(POLICY)
    try:
        submission = load(path)
        require_finished(submission)
        evidence = gather(submission, policy.thresholds)
        evidence = replace(evidence, checkpoints=read_checkpoints(submission))  # as `grader` does
        grade = graded(evidence, name, policy)
    except UnusableError as error:
        if is_told_how_to_finish(error.problems[0]):
            raise RunFolderError(f"A report needs runs that have ended, but {error.problems[0]}") from error
        raise RunFolderError(
            f"A report needs run folders that the grader can read, but {path} is none "
            f"({error.first}); name another folder."
        ) from error
    return JudgedRun(name, submission.folder, submission.document, evidence, grade)


def to_owner(sentences: Sequence[str]) -> list[str]:
    """What a run's owner is told: nothing of what only a stranger's files can be suspected of."""
    return [sentence for sentence in sentences if sentence != NO_NETWORK]
