"""Level 1: what the epochs say must be possible, in order, and chosen by the rule."""

from collections.abc import Callable, Hashable, Iterator
from itertools import combinations
from math import log

from grader.evidence import Evidence
from grader.findings import Finding, Level, from_problems
from grader.record import SPLITS, Epoch, Run

TIME_SLACK = 1.01  # files may round their seconds
RELATIVE = 1e-4  # rounding of losses near ties
FEWEST_EPOCHS_TO_COMPARE = 3  # below this, equal counts of two runs may be chance


def split_counts(evidence: Evidence) -> Finding:
    """Counts fit the splits.

    Rule: class counts have one entry a class and add up to the split's images; no class exceeds the subset;
    every epoch counts all images of each split, and no more right than there are; the three splits have
    three fingerprints.

    Source: the results schema.
    """
    results = evidence.results
    problems: dict[str, list[str]] = {}
    for name, split in results.splits.items():
        found = problems.setdefault(f"split {name}", [])
        if len(split.class_counts) != len(results.classes):
            found.append(
                f"{name}: {len(split.class_counts)} class counts for {len(results.classes)} classes."
            )
        elif sum(split.class_counts) != split.n_samples:
            found.append(
                f"{name}: class counts add up to {sum(split.class_counts):,}, not {split.n_samples:,}."
            )
        elif results.subset is not None and max(split.class_counts) > results.subset:
            found.append(
                f"{name}: {max(split.class_counts)} images of a class; the subset is {results.subset}."
            )
    if len({split.fingerprint for split in results.splits.values()}) < len(results.splits):
        problems["fingerprints"] = ["Two of the three splits have the same fingerprint."]
    for run in results.runs:
        problems[run.name] = [
            f"{run.name}, epoch {epoch.epoch}, {split}: {m.n_correct:,} right of {m.n_samples:,}; "
            f"the split has {results.splits[split].n_samples:,}."
            for epoch in run.epochs
            for split in ("train", *SPLITS)
            if (m := epoch.on(split)).n_samples != results.splits[split].n_samples
            or m.n_correct > m.n_samples
        ]
    return from_problems(problems, Level.FILE, "All counts fit the splits.")


def epochs_in_order(evidence: Evidence) -> Finding:
    """The epochs are consecutive, and as many as the budget and the recipe say.

    Rule: numbered 1, 2, …, n with n = budget.epochs, and n = recipe.epochs for a completed run.

    Source: the results schema.
    """
    problems: dict[str, list[str]] = {}
    for run in evidence.results.runs:
        n = evidence.results.epochs if run.status == "completed" else run.budget.epochs
        found = [epoch.epoch for epoch in run.epochs]
        problems[run.name] = []
        if found != list(range(1, len(found) + 1)):
            problems[run.name] = [f"{run.name}: epochs are not numbered 1, 2, …, {len(found)}."]
        elif not len(found) == run.budget.epochs == n:
            counts = f"{len(found)} epochs listed, {run.budget.epochs} in the budget, {n} in the recipe"
            problems[run.name] = [f"{run.name}: {counts}."]
    return from_problems(problems, Level.FILE, f"Epochs 1 to {evidence.results.epochs} in every run.")


def best_epoch(evidence: Evidence) -> Finding:
    """The chosen epoch is the best by validation; test had no say.

    Rule: highest validation n_correct; ties by lower validation loss_sum; then the earlier epoch.

    Source: the results schema.
    """
    problems: dict[str, list[str]] = {}
    for run in evidence.results.runs:
        if not run.epochs:
            continue
        best = max(run.epochs, key=lambda e: (e.val.n_correct, -e.val.loss_sum, -e.epoch))
        problems[run.name] = []
        if best.epoch != run.best_epoch:
            right = f"epoch {best.epoch} is best by validation ({_right(best)})"
            chosen = f"epoch {run.best_epoch} was chosen" + (f" ({_right(run.best)})" if run.best else "")
            problems[run.name] = [f"{run.name}: {right}, yet {chosen}."]
    return from_problems(problems, Level.FILE, "The chosen epoch is the best by validation in every run.")


def loss_fits_accuracy(evidence: Evidence) -> Finding:
    """Losses are possible with the counts of right answers.

    Rule: an image that is classified wrong has a negative log-likelihood of at least ln 2, because another
    class has at least the label's probability. So loss_sum >= (n_samples - n_correct) * ln 2 on every split.

    Source: the definition of cross-entropy.
    """
    problems: dict[str, list[str]] = {}
    for run in evidence.results.runs:
        problems[run.name] = [
            f"{run.name}, epoch {epoch.epoch}, {split}: a loss sum of {m.loss_sum:.4g} is too low for "
            f"{m.n_samples - m.n_correct:,} wrong answers, which cost {least:.4g} or more."
            for epoch in run.epochs
            for split in ("train", *SPLITS)
            if (m := epoch.on(split)).loss_sum
            < (least := (m.n_samples - m.n_correct) * log(2)) * (1 - RELATIVE)
        ]
    return from_problems(problems, Level.FILE, "Every loss is possible with its count of right answers.")


def times_add_up(evidence: Evidence) -> Finding:
    """The parts of the time add up, and the throughput is images over seconds.

    Rule, each with 1 % slack: waiting <= training seconds in each epoch; training + evaluation over the
    epochs <= the run's total_seconds; images_per_second = training images of the listed epochs / sum of
    their train_seconds; the runs' totals, decoding and downloads <= the job's total_seconds.

    Source: the results schema.
    """
    results = evidence.results
    problems: dict[str, list[str]] = {run.name: list(_time_problems(run)) for run in results.runs}
    timings = results.timings
    parts = sum(run.total_seconds for run in results.runs)
    parts += timings["download_seconds"] + timings["decode_seconds"]
    if parts > timings["total_seconds"] * TIME_SLACK:
        total = timings["total_seconds"]
        problems["job"] = [f"The job took {total:.1f} s in all, yet its parts took {parts:.1f} s."]
    return from_problems(problems, Level.FILE, "Times add up in every run.")


def _time_problems(run: Run) -> Iterator[str]:
    for epoch in run.epochs:
        if epoch.data_wait_seconds > epoch.train_seconds * TIME_SLACK:
            waited = f"waited {epoch.data_wait_seconds:.3g} s for data"
            yield f"{run.name}, epoch {epoch.epoch}: {waited} in {epoch.train_seconds:.3g} s of training."
    training = sum(epoch.train_seconds for epoch in run.epochs)
    parts = training + sum(epoch.evaluation_seconds for epoch in run.epochs)
    if parts > run.total_seconds * TIME_SLACK:
        yield f"{run.name}: its epochs took {parts:.3g} s, more than its total of {run.total_seconds:.3g} s."
    # Not the budget's images: a run that failed saw some of an epoch that is not listed.
    images = sum(epoch.train.n_samples for epoch in run.epochs)
    throughput = images / training if training > 0 else 0.0
    if abs(throughput - run.images_per_second) > throughput * (TIME_SLACK - 1):
        seen = f"{images:,} images in {training:.3g} s are {throughput:.4g} images a second"
        yield f"{run.name}: {seen}, not {run.images_per_second:.4g}."


def distinct_runs(evidence: Evidence) -> Finding:
    """No two runs are copies of one another.

    Rule: no two runs share a file name, the SHA-256 of their predictions or checkpoint, the loss sum on
    validation or test in any epoch, or, over three epochs and more, all counts of right answers; with the
    predictions, no two have the same nll column. Independent trainings differ in all of these.

    Source: a homework published with one accuracy, 1054/1278, for three models.
    """
    runs = evidence.chosen
    problems: dict[str, list[str]] = {f"{a.name} {b.name}": [] for a, b in combinations(runs, 2)}
    for noun, marks in _MARKS.items():
        owner: dict[Hashable, Run] = {}
        for run in runs:
            for mark in marks(run):
                first = owner.setdefault(mark, run)
                if first is not run:
                    problems[f"{first.name} {run.name}"] = [
                        f"{run.name} has the same {noun} as {first.name}."
                    ]
    for split in SPLITS:
        columns: dict[bytes, Run] = {}
        for run, rows in evidence.rows(split):
            first = columns.setdefault(rows.nll.tobytes(), run)
            if first is not run:
                problems[f"{first.name} {run.name}"] = [f"{run.name} has the {split} losses of {first.name}."]
    level = Level.PREDICTIONS if evidence.predictions else Level.FILE
    return from_problems(problems, level, f"All {len(runs)} runs differ from one another.")


def _files(run: Run) -> list[Hashable]:
    a = run.artifacts
    files = () if a is None else (a.val_predictions, a.test_predictions, a.checkpoint)
    return [mark for file in files for mark in (file.path, file.sha256)]


def _losses(run: Run) -> list[Hashable]:
    return [(split, epoch.on(split).loss_sum) for epoch in run.epochs for split in SPLITS]


def _curve(run: Run) -> list[Hashable]:
    counts = tuple((e.train.n_correct, e.val.n_correct, e.test.n_correct) for e in run.epochs)
    return [counts] if len(set(counts)) >= FEWEST_EPOCHS_TO_COMPARE else []


_MARKS: dict[str, Callable[[Run], list[Hashable]]] = {
    "files": _files,
    "loss in some epoch": _losses,
    "counts of right answers": _curve,
}


def _right(epoch: Epoch) -> str:
    return f"{epoch.val.n_correct:,} right, loss sum {epoch.val.loss_sum:.4f}"
