"""Level 3: the labels and splits are those of the data set."""

from grader.evidence import Evidence
from grader.findings import Finding, Level, counted, from_problems, not_checked
from grader.record import SPLITS

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
    sample of a split is missing unless the results file excludes it or the run used a subset. Whether there
    was a reason to exclude an image, only --rerun shows.

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
    if not problems:
        return not_checked(NO_ROWS, Level.TRUTH)
    n_excluded = len(results.excluded & (truth.splits["val"] | truth.splits["test"]))
    but = f", but for {counted(n_excluded, 'image')} that the results exclude" if n_excluded else ""
    return from_problems(problems, Level.TRUTH, f"Validation and test are the splits in {truth.source}{but}.")
