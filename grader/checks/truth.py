"""Level 3: the labels and splits are those of the data set."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from grader.checks.whole_data import MOST_EXCLUDED
from grader.evidence.gathered import Evidence
from grader.findings import Finding, Level, Status, counted, from_problems, not_checked
from grader.reading.truth import Truth
from grader.submission.record import SPLITS

if TYPE_CHECKING:
    from grader.submission.predictions import Predictions

NO_TRUTH = "Requires --labels, --dataset or --rerun."
NO_ROWS = "There are no predictions to compare with the true labels."


def true_labels(evidence: Evidence) -> Finding:
    """The labels are the true ones.

    Rule: the data set contains every sample id in the predictions, with the same label.

    Source: the file given with --labels, or the data set itself.
    """
    truth = evidence.truth
    if truth is None:
        return not_checked(evidence.rerun.failure if evidence.rerun else NO_TRUTH, Level.TRUTH)
    problems: dict[str, list[str]] = {}
    for split in SPLITS:
        for run, rows in evidence.rows(split):
            found = problems.setdefault(f"{run.name} {split}", [])
            for line, (name, label) in enumerate(zip(rows.sample_ids, rows.labels.tolist(), strict=True), 2):
                true = truth.labels.get(name)
                if true is None:
                    found.append(f"{run.name}, {split}, line {line}: {name!r} is not in {truth.source}.")
                elif true != label:
                    found.append(f"{run.name}, {split}, line {line}: {name!r} has class {true}, not {label}.")
    if not problems:
        return not_checked(NO_ROWS, Level.TRUTH)
    return from_problems(problems, Level.TRUTH, f"All labels match {truth.source}.")


def true_splits(evidence: Evidence) -> Finding:
    """Validation and test are the true splits.

    Rule: if the true splits are known and the run used them, every sample is in its true split, and no
    sample of a split is missing unless the results file excludes it; of a subset of n, each class has n of
    the samples that are not excluded, or all if there are fewer. Inconclusive if more than one sample, and
    more than 1%, of a split is excluded: whether there was a reason, only --rerun shows.

    Source: the file given with --labels if it has a column split, or the data set itself.
    """
    truth, results = evidence.truth, evidence.results
    if truth is None:
        return not_checked(evidence.rerun.failure if evidence.rerun else NO_TRUTH, Level.TRUTH)
    if truth.splits is None:
        return not_checked(f"{truth.source} does not contain splits.", Level.TRUTH)
    if truth.is_official and results.split_rule != "official":
        return not_checked(
            f"The run used the split {results.split_rule}; {truth.source} contains only the official one.",
            Level.TRUTH,
        )
    if results.resplit:
        return not_checked("Every seed has a split of its own.", Level.TRUTH)
    problems: dict[str, list[str]] = {}
    for split in SPLITS:
        true = truth.splits[split]
        for run, rows in evidence.rows(split):
            foreign = [name for name in rows.sample_ids if name not in true]
            missing = true - results.excluded - set(rows.sample_ids) if results.subset is None else set()
            problems[f"{run.name} {split}"] = [
                f"{run.name}, {split}: {name!r} is not in the true {split} split." for name in foreign
            ] + [f"{run.name}, {split}: {name!r} is missing." for name in sorted(missing)]
            if results.subset is not None:
                problems[f"{run.name} {split}"] += [
                    f"{run.name}, {split}: {counted(found, 'image')} of class {label}, but a subset of "
                    f"{results.subset} has {wanted}."
                    for label, found, wanted in _counts(rows, true - results.excluded, truth, results.subset)
                    if found != wanted
                ]
    if not problems:
        return not_checked(NO_ROWS, Level.TRUTH)
    hidden = {split: len(results.excluded & truth.splits[split]) for split in SPLITS}
    n_excluded = sum(hidden.values())
    but = f", but for {counted(n_excluded, 'image')} that the results exclude" if n_excluded else ""
    summary = f"Validation and test are the splits in {truth.source}{but}."
    finding = from_problems(problems, Level.TRUTH, summary)
    many = [name for name, n in hidden.items() if n > max(1, MOST_EXCLUDED * len(truth.splits[name]))]
    if finding.status is Status.HOLDS and many and not evidence.has_images:
        n, n_all = hidden[many[0]], len(truth.splits[many[0]])
        summary = (
            f"{n:,} of {n_all:,} images of {many[0]} are excluded; only --rerun shows whether with reason."
        )
        return replace(finding, status=Status.INCONCLUSIVE, summary=summary, held=0)
    return finding


def _counts(
    rows: "Predictions", true: frozenset[str], truth: Truth, subset: int
) -> Iterator[tuple[int, int, int]]:
    """Each class with its images in a split, and how many a subset has."""
    all_of = Counter(truth.labels[name] for name in true if name in truth.labels)
    found = Counter(rows.labels.tolist())
    for label in sorted(all_of.keys() | found.keys()):
        yield label, found[label], min(subset, all_of[label])
