"""Level 2: the prediction files agree with the results file."""

from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING

from grader.evidence.gathered import Evidence
from grader.findings import (
    MINUS,
    NO_PREDICTIONS,
    Finding,
    Level,
    Status,
    counted,
    from_problems,
    in_points,
    limits_in_points,
    not_checked,
)
from grader.statistics import proportions
from grader.statistics.proportions import Interval
from grader.submission.record import SPLITS, Run

if TYPE_CHECKING:
    from grader.submission.predictions import Predictions

RELATIVE = 1e-6  # both sums add the same float32 values, possibly in a different order
FEWEST_RUNS = 3  # whose median gap is that of an official split
ROUNDING = 1e-3  # of log-softmax near a tie, at any precision of the logits
FLOAT32 = 1e-5  # between a float32 probability and its float32 logarithm, whatever computed them


def files_intact(evidence: Evidence) -> Finding:
    """The prediction files are those that the run wrote.

    Rule: each predictions file named in the results file exists and has the recorded SHA-256. Other checks
    ignore files that do not.

    Source: the results schema.
    """
    if not evidence.has_files:
        return not_checked(NO_PREDICTIONS, Level.PREDICTIONS)
    summary = f"SHA-256 verified for {counted(len(evidence.altered), 'prediction file')}."
    return from_problems(evidence.altered, Level.PREDICTIONS, summary)


def recomputed(evidence: Evidence) -> Finding:
    """Accuracy, loss and calibration recomputed from the predictions match the recorded ones.

    Rule: for the best epoch on validation and test, n_samples and n_correct equal the counts in the CSV file,
    loss_sum equals the sum of its nll column within 1e-6 (relative), and the expected calibration error
    equals that of its confidence column within 1e-6.

    Source: the results schema.
    """
    problems: dict[str, list[str]] = {}
    for split in SPLITS:
        for run, rows in evidence.rows(split):
            recorded = run.best.on(split) if run.best else None
            if recorded is None:
                continue
            found = problems.setdefault(f"{run.name} {split}", [])
            n, n_correct, loss = len(rows.labels), int(rows.correct.sum()), float(rows.nll.sum())
            if (n, n_correct) != (recorded.n_samples, recorded.n_correct):
                claim = f"{recorded.n_correct:,} of {recorded.n_samples:,}"
                found.append(f"{run.name}, {split}: {n_correct:,} of {n:,} correct, but {claim} recorded.")
            if abs(loss - recorded.loss_sum) > RELATIVE * max(loss, 1.0):
                found.append(
                    f"{run.name}, {split}: losses add up to {loss:.6g}, but {recorded.loss_sum:.6g} recorded."
                )
            found.extend(_other_calibration(run, split, rows))
    summary = f"Recomputed accuracy and loss match ({counted(len(problems), 'prediction file')})."
    return from_problems(problems, Level.PREDICTIONS, summary)


def _other_calibration(run: Run, split: str, rows: "Predictions") -> list[str]:
    from grader.statistics.calibration import expected_calibration_error

    if rows.confidence is None:
        return []
    if run.calibration is None:
        return [f"{run.name}: its calibration is null, but it has a best epoch."]
    error = expected_calibration_error(rows.confidence, rows.correct)
    recorded = run.calibration.ece_val if split == "val" else run.calibration.ece_test
    if abs(error - recorded) <= RELATIVE:
        return []
    return [f"{run.name}, {split}: calibration error {error:.6f}, but {recorded:.6f} recorded."]


def rows_plausible(evidence: Evidence) -> Finding:
    """Each image's loss and confidence are possible given its prediction.

    Rule: with K classes, a correct prediction has nll <= ln K, because the largest of K probabilities is at
    least 1/K; an incorrect one has nll >= ln 2, because another class is at least as probable as the label.
    The confidence c, the probability of the predicted class, is at least 1/K; it equals exp(-nll) if the
    prediction is correct, else exp(-nll) is at most c and at most 1 − c; each within 1e-5.

    Source: the definition of cross-entropy.
    """
    import numpy as np

    problems: dict[str, list[str]] = {}
    most = float(np.log(len(evidence.results.classes))) + ROUNDING
    least = float(np.log(2)) - ROUNDING
    for split in SPLITS:
        for run, rows in evidence.rows(split):
            impossible = np.where(rows.correct, rows.nll > most, rows.nll < least)
            problems[f"{run.name} {split}"] = [
                f"{run.name}, {split}, line {row + 2}: nll {rows.nll[row]:.4g} is impossible for "
                f"prediction {rows.predicted[row]} and label {rows.labels[row]}."
                for row in np.flatnonzero(impossible).tolist()
            ] + _impossible_confidences(run, split, rows, len(evidence.results.classes))
    summary = "Each image's loss and confidence are possible given its prediction."
    return from_problems(problems, Level.PREDICTIONS, summary)


def _impossible_confidences(run: Run, split: str, rows: "Predictions", n_classes: int) -> list[str]:
    """Problems of the column confidence; none in files of schema version 1, which have no such column."""
    import numpy as np

    if rows.confidence is None:
        return []
    of_label, most = np.exp(-rows.nll), rows.confidence
    impossible = np.where(
        rows.correct,
        np.abs(most - of_label) > FLOAT32,
        (of_label > most + FLOAT32) | (of_label > 1 - most + FLOAT32),
    ) | (most < 1 / n_classes - FLOAT32)
    return [
        f"{run.name}, {split}, line {row + 2}: confidence {most[row]:.4g} is impossible for prediction "
        f"{rows.predicted[row]}, label {rows.labels[row]} and nll {rows.nll[row]:.4g}."
        for row in np.flatnonzero(impossible).tolist()
    ]


def same_samples(evidence: Evidence) -> Finding:
    """Every run was evaluated on the same images with the same labels.

    Rule: for each split, the columns sample_id and label are the same in all prediction files; with resplits,
    in all files of one seed.

    Source: the results schema.
    """
    problems: dict[str, list[str]] = {}
    for split in SPLITS:
        firsts: dict[int, tuple[Run, Predictions]] = {}
        for run, found in evidence.rows(split):
            first_run, first = firsts.setdefault(run.seed if evidence.results.resplit else 0, (run, found))
            difference = ""
            if found.sample_ids != first.sample_ids:
                pairs = enumerate(zip(found.sample_ids, first.sample_ids, strict=False), 2)
                line = next((line for line, (x, y) in pairs if x != y), len(first.sample_ids) + 2)
                difference = f"line {line}: image differs"
            elif (found.labels != first.labels).any():
                difference = f"line {int((found.labels != first.labels).argmax()) + 2}: label differs"
            problem = f"{run.name}, {split}, {difference} from {first_run.name}."
            problems[f"{run.name} {split}"] = [problem] if difference else []
    return from_problems(
        problems, Level.PREDICTIONS, "Every run was evaluated on the same images with the same labels."
    )


def class_counts(evidence: Evidence) -> Finding:
    """The predictions have as many images of each class as the results file records.

    Rule: for each class, the number of rows with its label equals its entry in class_counts.

    Source: the results schema.
    """
    results = evidence.results
    problems: dict[str, list[str]] = {}
    for split in SPLITS:
        for run, rows in evidence.rows(split):
            _, counts = rows.per_class(len(results.classes))
            problems[f"{run.name} {split}"] = [
                f"{run.name}, {split}: {counted(found, 'image')} of class {index}, but {recorded:,} recorded."
                for index, (found, recorded) in enumerate(
                    zip(counts.tolist(), results.splits_of(run.seed)[split].class_counts, strict=False)
                )
                if found != recorded
            ]
    return from_problems(problems, Level.PREDICTIONS, "Class counts match the results file.")


def val_test_disjoint(evidence: Evidence) -> Finding:
    """No image is in both validation and test.

    Rule: the two splits have no sample_id in common; with resplits, those of each seed.

    Source: the results schema.
    """
    by_seed: dict[int, dict[str, set[str]]] = {}
    for split in SPLITS:
        for run, rows in evidence.rows(split):
            ids = by_seed.setdefault(run.seed if evidence.results.resplit else 0, defaultdict(set))
            ids[split].update(rows.sample_ids)
    complete = {seed: ids for seed, ids in by_seed.items() if len(ids) == len(SPLITS)}
    if not complete:
        return not_checked(NO_PREDICTIONS, Level.PREDICTIONS)
    problems: dict[str, list[str]] = {}
    for seed, ids in complete.items():
        shared = sorted(ids["val"] & ids["test"])
        problems[f"seed {seed}"] = [f"{name!r} is in both validation and test." for name in shared]
    first = next(iter(complete.values()))
    summary = f"No overlap between {len(first['val']):,} validation and {len(first['test']):,} test images."
    return from_problems(problems, Level.PREDICTIONS, summary)


def test_close_to_validation(evidence: Evidence) -> Finding:
    """Test accuracy is close to validation accuracy, in both directions.

    Rule: for each run, d = test − validation accuracy at the best epoch, with Newcombe's hybrid score
    interval for independent proportions; if there are predictions, also for mean per-class accuracy, because
    the splits may be balanced differently. Intervals are Bonferroni-corrected. Fails if an interval lies
    entirely outside ± the policy's gap_floor, because sampling does not explain such a test accuracy, low or
    high. Holds if every |d| is at most the floor or half the interval's width, whichever is larger; otherwise
    inconclusive. An official split's test images may be harder or easier by design, for every network alike,
    so there the median of all runs' d, per class if there are predictions, is subtracted before; that takes
    three runs.

    Source: R. G. Newcombe, Statistics in Medicine 17 (1998) 873-890, method 10; for mean
    per-class accuracy, R. M. Price and D. G. Bonett, Computational Statistics & Data Analysis 45 (2004)
    449-456.
    """
    floor = evidence.thresholds.gap_floor
    is_official = evidence.results.split_rule == "official"
    if is_official and len(evidence.chosen) < FEWEST_RUNS:
        return not_checked(
            "An official test split may differ from validation by design; three runs would show by how much.",
            Level.FILE,
        )
    gaps, level = _gaps(evidence, is_official)
    if not gaps:
        return not_checked("No run has a best epoch.", Level.FILE)
    common = median(gap.estimate for gap in gaps.values()) if is_official else 0.0
    gaps = {name: Interval(*(v - common for v in (d.estimate, d.low, d.high))) for name, d in gaps.items()}
    beyond = [name for name, gap in gaps.items() if gap.low > floor or gap.high < -floor]
    unclear = [name for name, gap in gaps.items() if abs(gap.estimate) > max(floor, (gap.high - gap.low) / 2)]
    status = Status.FAILS if beyond else Status.INCONCLUSIVE if unclear else Status.HOLDS
    worst = max(beyond or unclear or gaps, key=lambda name: abs(gaps[name].estimate))
    shift = f", less the {in_points(common)} points common to all runs," if is_official else ""
    summary = f"Largest gap ({worst}): test {MINUS} validation{shift} = {limits_in_points(gaps[worst])}."
    if status is Status.INCONCLUSIVE and is_official:
        summary += " More seeds would settle it."
    elif status is Status.INCONCLUSIVE:
        summary += " More validation and test images would settle it."
    return Finding(
        status,
        level,
        summary,
        tuple(f"{name}: {limits_in_points(gaps[name])}." for name in beyond) if len(beyond) > 1 else (),
        {
            "difference": gaps[worst].estimate,
            "low": gaps[worst].low,
            "high": gaps[worst].high,
            "floor": floor,
            "common": common,
        },
        held=len(gaps) - len(set(beyond) | set(unclear)),
        judged=len(gaps),
    )


def _gaps(evidence: Evidence, is_official: bool) -> tuple[dict[str, Interval], Level]:
    """Test minus validation accuracy of each run, with intervals, and the level of the evidence.

    On an official split, the accuracy per class replaces the overall one where there are predictions.
    """
    runs, level = evidence.chosen, Level.FILE
    confidence = 1 - (1 - evidence.thresholds.confidence) / max(1, 2 * len(runs))
    gaps: dict[str, Interval] = {}
    for run in runs:
        if run.best is None:
            continue
        sides = [(run.best.on(s).n_correct, run.best.on(s).n_samples) for s in ("test", "val")]
        test, val = (proportions.wilson(n_correct, n, confidence) for n_correct, n in sides)
        gaps[run.name] = proportions.difference_of_independent(test, val)
        rows = [evidence.predictions.get((run.name, split)) for split in ("test", "val")]
        if rows[0] is not None and rows[1] is not None:
            level = Level.PREDICTIONS
            counts = [found.per_class(len(evidence.results.classes)) for found in rows if found is not None]
            classes = [[(int(r), int(n)) for r, n in zip(*side, strict=True) if n] for side in counts]
            if is_official:
                del gaps[run.name]
            gaps[f"{run.name}, mean per class"] = proportions.difference_of_class_means(
                classes[0], classes[1], confidence
            )
    return gaps, level
