"""Level 2: the predictions on disk say what the results file says."""

from collections import defaultdict

from grader import stats
from grader.evidence import Evidence
from grader.findings import Finding, Level, Status, from_problems, not_checked
from grader.record import SPLITS
from grader.stats import Interval

NO_FILES = "The predictions are not beside the results file."
RELATIVE = 1e-6  # both sums are of the same float32 values; only the order of adding may differ
ROUNDING = 1e-3  # log-softmax near a tie, whatever the precision of the logits


def files_intact(evidence: Evidence) -> Finding:
    """The prediction files are the ones that the run wrote.

    Rule: each predictions file that the results file names is there and has the recorded SHA-256. A file
    that has not is left out of all other checks.

    Source: the results schema.
    """
    if not evidence.has_files:
        return not_checked(NO_FILES, Level.PREDICTIONS)
    summary = f"All {len(evidence.altered)} prediction files have their recorded SHA-256."
    return from_problems(evidence.altered, Level.PREDICTIONS, summary)


def recomputed(evidence: Evidence) -> Finding:
    """Accuracy and loss, computed again from the predictions, are the recorded ones.

    Rule: for the chosen epoch on validation and test, n_samples and n_correct are equal to the counts in
    the CSV, and loss_sum to the sum of its nll within one in a million.

    Source: the results schema.
    """
    problems: dict[str, list[str]] = {}
    for split in SPLITS:
        for run, rows in evidence.rows(split):
            recorded = run.best.on(split) if run.best else None
            if recorded is None:
                continue
            found = problems.setdefault(f"{run.name} {split}", [])
            n, right, loss = len(rows.labels), int(rows.correct.sum()), float(rows.nll.sum())
            if (n, right) != (recorded.n_samples, recorded.n_correct):
                claim = f"{recorded.n_correct:,} of {recorded.n_samples:,}"
                found.append(
                    f"{run.name}, {split}: the predictions have {right:,} of {n:,} right, not {claim}."
                )
            if abs(loss - recorded.loss_sum) > RELATIVE * max(loss, 1.0):
                found.append(
                    f"{run.name}, {split}: the losses add up to {loss:.6g}, not {recorded.loss_sum:.6g}."
                )
    if not problems:
        return not_checked(NO_FILES, Level.PREDICTIONS)
    summary = f"Accuracy and loss of {len(problems)} prediction files are the recorded ones."
    return from_problems(problems, Level.PREDICTIONS, summary)


def rows_plausible(evidence: Evidence) -> Finding:
    """Each image's loss is possible with its prediction.

    Rule: with K classes, a right prediction has nll <= ln K (the largest of K probabilities is at least
    1/K), a wrong one nll >= ln 2 (another class has at least the label's probability).

    Source: the definition of cross-entropy.
    """
    import numpy as np

    problems: dict[str, list[str]] = {}
    most = float(np.log(len(evidence.results.classes))) + ROUNDING
    least = float(np.log(2)) - ROUNDING
    for split in SPLITS:
        for run, rows in evidence.rows(split):
            wrong = np.where(rows.correct, rows.nll > most, rows.nll < least)
            problems[f"{run.name} {split}"] = [
                f"{run.name}, {split}, line {row + 2}: predicted {rows.predicted[row]} for label "
                f"{rows.labels[row]} is impossible with nll {rows.nll[row]:.4g}."
                for row in np.flatnonzero(wrong).tolist()
            ]
    if not problems:
        return not_checked(NO_FILES, Level.PREDICTIONS)
    return from_problems(problems, Level.PREDICTIONS, "Each image's loss is possible with its prediction.")


def same_samples(evidence: Evidence) -> Finding:
    """Every run was evaluated on the same images with the same labels.

    Rule: the columns sample_id and label are equal in all predictions on one split.

    Source: the results schema.
    """
    problems: dict[str, list[str]] = {}
    for split in SPLITS:
        rows = list(evidence.rows(split))
        for run, found in rows:
            first_run, first = rows[0]
            other = f"{run.name}, {split}: "
            problems[f"{run.name} {split}"] = []
            if found.sample_ids != first.sample_ids:
                pairs = enumerate(zip(found.sample_ids, first.sample_ids, strict=False), 2)
                line = next((line for line, (x, y) in pairs if x != y), len(first.sample_ids) + 2)
                problems[f"{run.name} {split}"] = [
                    f"{other}line {line} has another image than {first_run.name}."
                ]
            elif (found.labels != first.labels).any():
                line = int((found.labels != first.labels).argmax()) + 2
                problems[f"{run.name} {split}"] = [
                    f"{other}line {line} has another label than {first_run.name}."
                ]
    if not problems:
        return not_checked(NO_FILES, Level.PREDICTIONS)
    return from_problems(problems, Level.PREDICTIONS, "The same images with the same labels in every run.")


def class_counts(evidence: Evidence) -> Finding:
    """The labels in the predictions are as many of each class as the results file says.

    Rule: for each class, the rows with its label are class_counts of the split.

    Source: the results schema.
    """
    results = evidence.results
    problems: dict[str, list[str]] = {}
    for split in SPLITS:
        for run, rows in evidence.rows(split):
            _, counts = rows.per_class(len(results.classes))
            problems[f"{run.name} {split}"] = [
                f"{run.name}, {split}: {found:,} images of class {index}, not {recorded:,}."
                for index, (found, recorded) in enumerate(
                    zip(counts.tolist(), results.splits[split].class_counts, strict=False)
                )
                if found != recorded
            ]
    if not problems:
        return not_checked(NO_FILES, Level.PREDICTIONS)
    return from_problems(problems, Level.PREDICTIONS, "The images of each class are as many as recorded.")


def val_test_disjoint(evidence: Evidence) -> Finding:
    """No image is in both validation and test.

    Rule: the sample ids of the two splits have none in common.

    Source: the results schema.
    """
    ids: dict[str, set[str]] = defaultdict(set)
    for split in SPLITS:
        for _run, rows in evidence.rows(split):
            ids[split].update(rows.sample_ids)
    if len(ids) < len(SPLITS):
        return not_checked(NO_FILES, Level.PREDICTIONS)
    shared = sorted(ids["val"] & ids["test"])
    problems = [f"{name!r} is in both validation and test." for name in shared]
    summary = f"{len(ids['val']):,} validation and {len(ids['test']):,} test images, none in both."
    return from_problems({"val and test": problems}, Level.PREDICTIONS, summary)


def test_close_to_validation(evidence: Evidence) -> Finding:
    """Test accuracy is close to validation accuracy, in both directions.

    Rule: for each run, d = test - validation at the chosen epoch, with Newcombe's hybrid score interval for
    independent proportions; with the predictions also for mean per-class accuracy, because splits may be
    balanced differently. The confidence is shared out over all intervals (Bonferroni). Fails when an
    interval lies wholly beyond ± the policy's floor: such a test accuracy, lower or higher, is not one that
    the validation allows. Holds when every |d| is at most the floor or the interval's half width, whichever
    is larger; else not separable.

    Source: R. G. Newcombe, Statistics in Medicine 17 (1998) 873-890, method 10; for mean
    per-class accuracy, R. M. Price and D. G. Bonett, Computational Statistics & Data Analysis 45 (2004)
    449-456.
    """
    runs, floor = evidence.chosen, evidence.thresholds.gap_floor
    confidence = 1 - (1 - evidence.thresholds.confidence) / max(1, 2 * len(runs))
    gaps: dict[str, Interval] = {}
    level = Level.FILE
    for run in runs:
        if run.best is None:
            continue
        sides = [(run.best.on(s).n_correct, run.best.on(s).n_samples) for s in ("test", "val")]
        test, val = (stats.wilson(right, n, confidence) for right, n in sides)
        gaps[run.name] = stats.difference_of_independent(test, val)
        rows = [evidence.predictions.get((run.name, split)) for split in ("test", "val")]
        if rows[0] is not None and rows[1] is not None:
            level = Level.PREDICTIONS
            counts = [found.per_class(len(evidence.results.classes)) for found in rows if found is not None]
            classes = [[(int(r), int(n)) for r, n in zip(*side, strict=True) if n] for side in counts]
            gaps[f"{run.name}, mean per-class"] = stats.difference_of_class_means(
                classes[0], classes[1], confidence
            )
    if not gaps:
        return not_checked("No run has a chosen epoch.", Level.FILE)
    beyond = [name for name, gap in gaps.items() if gap.low > floor or gap.high < -floor]
    unclear = [name for name, gap in gaps.items() if abs(gap.estimate) > max(floor, (gap.high - gap.low) / 2)]
    status = Status.FAILS if beyond else Status.NOT_SEPARABLE if unclear else Status.HOLDS
    worst = max(beyond or unclear or gaps, key=lambda name: abs(gaps[name].estimate))
    summary = f"Largest gap: {worst}: test - validation = {_in_points(gaps[worst])}."
    if status is Status.NOT_SEPARABLE:
        summary += " More validation and test images would tell."
    return Finding(
        status,
        level,
        summary,
        tuple(f"{name}: {_in_points(gaps[name])}." for name in beyond) if len(beyond) > 1 else (),
        {
            "difference": gaps[worst].estimate,
            "low": gaps[worst].low,
            "high": gaps[worst].high,
            "floor": floor,
        },
        held=len(gaps) - len(set(beyond) | set(unclear)),
        judged=len(gaps),
    )


def _in_points(gap: Interval) -> str:
    return f"{100 * gap.estimate:+.1f} points ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"
