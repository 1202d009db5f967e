"""Level 3: the labels and splits are those of the data set, whatever the submission says."""

from grader.evidence import Evidence
from grader.findings import Finding, Level, from_problems, not_checked
from grader.record import SPLITS

NO_TRUTH = "No truth was given; --labels or --dataset does."
NO_ROWS = "There are no predictions to compare with the truth."


def true_labels(evidence: Evidence) -> Finding:
    """The labels are the true ones.

    Rule: each sample id in the predictions is one of the data set's, and its label is the data set's.

    Source: the file given with --labels, or the data set's own files.
    """
    truth = evidence.truth
    if truth is None:
        return not_checked(NO_TRUTH, Level.TRUTH)
    problems: dict[str, list[str]] = {}
    for split in SPLITS:
        for run, rows in evidence.rows(split):
            found = problems.setdefault(f"{run.name} {split}", [])
            for line, (name, label) in enumerate(zip(rows.sample_ids, rows.labels.tolist(), strict=True), 2):
                true = truth.labels.get(name)
                if true is None:
                    found.append(f"{run.name}, {split}, line {line}: {name!r} is not in {truth.source}.")
                elif true != label:
                    found.append(
                        f"{run.name}, {split}, line {line}: {name!r} is of class {true}, not {label}."
                    )
    if not problems:
        return not_checked(NO_ROWS, Level.TRUTH)
    return from_problems(problems, Level.TRUTH, f"Every label is the one in {truth.source}.")


def true_splits(evidence: Evidence) -> Finding:
    """Validation and test are the true splits.

    Rule: where the data set comes divided and the run used its division, each sample is in the split that
    the data set puts it in; and no sample of a split is missing but those that the results file excludes
    (or, with a subset, those beyond it).

    Source: the file given with --labels if it has a column split, or the data set's own files.
    """
    truth, results = evidence.truth, evidence.results
    if truth is None:
        return not_checked(NO_TRUTH, Level.TRUTH)
    if truth.splits is None:
        return not_checked(f"{truth.source} does not say which split a sample is in.", Level.TRUTH)
    if truth.is_official and results.split_rule != "official":
        return not_checked(
            f"The run divided the images {results.split_rule}; {truth.source} knows the official way only.",
            Level.TRUTH,
        )
    problems: dict[str, list[str]] = {}
    for split in SPLITS:
        true = truth.splits[split]
        for run, rows in evidence.rows(split):
            foreign = [name for name in rows.sample_ids if name not in true]
            missing = true - results.excluded - set(rows.sample_ids) if results.subset is None else set()
            problems[f"{run.name} {split}"] = [
                f"{run.name}, {split}: {name!r} is not in the true {split} split." for name in foreign
            ] + [f"{run.name}, {split}: {name!r} is missing." for name in sorted(missing)]
    if not problems:
        return not_checked(NO_ROWS, Level.TRUTH)
    return from_problems(problems, Level.TRUTH, f"Validation and test are the splits of {truth.source}.")
