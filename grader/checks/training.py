"""Level 1: the recorded epochs are complete, plausible and distinct, and the best one follows the rule."""

from collections.abc import Callable, Hashable, Iterator
from itertools import combinations

from grader.checks.one_network import LEAST_RATE, epochs_in_common, hardly_moved, have_one_best
from grader.evidence.gathered import Evidence
from grader.evidence.telling import FEWEST_IMAGES, is_telling
from grader.findings import Finding, Level, counted, from_problems
from grader.submission.parts import Split
from grader.submission.record import SPLITS, Epoch, Results, Run
from grader.submission.split_rule import shares_of

TIME_SLACK = 1.01  # seconds may be rounded
FEWEST_EPOCHS_TO_COMPARE = 3  # with fewer, equal counts in two runs could be chance
FEWEST_ERRORS = 10  # in such an epoch; where nearly all is right, there are few counts to have


def split_counts(evidence: Evidence) -> Finding:
    """All counts match the splits.

    Rule: class counts have one entry per class and add up to the size of the split; no class exceeds the
    subset limit; every epoch counts all images of each split and no more correct predictions than images; the
    three splits have different fingerprints; shares by which the images were split add up to 100.

    Source: the results schema.
    """
    results = evidence.results
    problems: dict[str, list[str]] = {}
    for name, split in _all_splits(results):
        found = problems.setdefault(f"split {name}", [])
        if len(split.class_counts) != len(results.classes):
            found.append(
                f"{name}: expected {len(results.classes)} class counts, found {len(split.class_counts)}."
            )
        elif sum(split.class_counts) != split.n_samples:
            found.append(
                f"{name}: class counts add up to {sum(split.class_counts):,}, not {split.n_samples:,}."
            )
        elif results.subset is not None and max(split.class_counts) > results.subset:
            found.append(
                f"{name}: {max(split.class_counts)} images of a class; the subset limit is {results.subset}."
            )
    for splits in (results.splits, *(results.resplits or {}).values()):
        if len({split.fingerprint for split in splits.values()}) < len(splits):
            problems["fingerprints"] = ["Two of the three splits have the same fingerprint."]
    problems["resplits"] = list(_resplit_problems(results))
    shares = shares_of(results.split_rule)
    if shares is not None and sum(shares) != 100:
        problems["split"] = [f"The shares of config.split, {results.split_rule}, must add up to 100."]
    for run in results.runs:
        splits = results.splits_of(run.seed)
        problems[run.name] = [
            f"{run.name}, epoch {epoch.epoch}, {split}: {m.n_correct:,} of {m.n_samples:,} correct, "
            f"but the split has {counted(splits[split].n_samples, 'image')}."
            for epoch in run.epochs
            for split in ("train", *SPLITS)
            if (m := epoch.on(split)).n_samples != splits[split].n_samples or m.n_correct > m.n_samples
        ]
    return from_problems(problems, Level.FILE, "All counts match the splits.")


def _all_splits(results: Results) -> Iterator[tuple[str, Split]]:
    """The splits with their names; with resplits, those of every seed."""
    yield from results.splits.items()
    for seed, splits in (results.resplits or {}).items():
        yield from ((f"{name} of seed {seed}", split) for name, split in splits.items())


def _resplit_problems(results: Results) -> Iterator[str]:
    if results.resplit != (results.resplits is not None):
        yield f"config.resplit is {str(results.resplit).lower()}, but dataset.resplits says otherwise."
    if results.resplits is None:
        return
    if set(results.resplits) != set(results.seeds):
        yield "dataset.resplits must have one entry for every seed."
    first = results.resplits.get(results.seeds[0])
    if first is not None and first != results.splits:
        yield f"dataset.splits must be those of the first seed, {results.seeds[0]}."
    if len({splits["test"].fingerprint for splits in results.resplits.values()}) < len(results.resplits):
        yield "Two seeds have the same test split despite resplit."


def epochs_in_order(evidence: Evidence) -> Finding:
    """The epochs are consecutive, and their number matches the budget and the recipe.

    Rule: epochs are numbered 1, 2, …, n, where n = budget.epochs and, for a completed run, n = recipe.epochs,
    or the variant's epochs if it has its own.

    Source: the results schema.
    """
    problems: dict[str, list[str]] = {}
    for run in evidence.results.runs:
        wanted = evidence.results.epochs_of(run.variant)
        n = wanted if run.status == "completed" else run.budget.epochs
        found = [epoch.epoch for epoch in run.epochs]
        problems[run.name] = []
        if found != list(range(1, len(found) + 1)):
            problems[run.name] = [f"{run.name}: epochs are not numbered 1, 2, …, {len(found)}."]
        elif not len(found) == run.budget.epochs == n:
            listed = counted(len(found), "epoch")
            problems[run.name] = [
                f"{run.name}: {listed} listed, {run.budget.epochs} in the budget, {n} configured."
            ]
    lengths = sorted({evidence.results.epochs_of(run.variant) for run in evidence.results.runs})
    summary = f"{' or '.join(map(str, lengths))} epoch{'' if lengths == [1] else 's'} in every run."
    return from_problems(problems, Level.FILE, summary)


def best_epoch(evidence: Evidence) -> Finding:
    """The best epoch was selected on validation, not on test.

    Rule: highest validation n_correct, then lowest validation loss_sum, then the earliest epoch.

    Source: the results schema.
    """
    problems: dict[str, list[str]] = {}
    for run in evidence.results.runs:
        if not run.epochs:
            continue
        best = max(run.epochs, key=lambda e: (e.val.n_correct, -e.val.loss_sum, -e.epoch))
        problems[run.name] = []
        if best.epoch != run.best_epoch:
            right = f"epoch {best.epoch} is best on validation ({_validation(best)})"
            chosen = f"epoch {run.best_epoch} was selected"
            chosen += f" ({_validation(run.best)})" if run.best else ""
            problems[run.name] = [f"{run.name}: {right}, but {chosen}."]
    return from_problems(problems, Level.FILE, "The best epoch on validation was selected in every run.")


def loss_fits_accuracy(evidence: Evidence) -> Finding:
    """Losses are consistent with the number of correct predictions.

    Rule: loss_sum >= (n_samples − n_correct) * ln 2 on every split, because a misclassified image has a
    negative log-likelihood of at least ln 2: another class is at least as probable as the label.

    Source: the definition of cross-entropy.
    """
    problems: dict[str, list[str]] = {}
    for run in evidence.results.runs:
        problems[run.name] = [
            f"{run.name}, epoch {epoch.epoch}, {split}: loss_sum is {m.loss_sum:.4g}, but "
            f"{counted(m.n_samples - m.n_correct, 'incorrect prediction')} must add at least "
            f"{m.least_loss_sum:.4g}."
            for epoch in run.epochs
            for split in ("train", *SPLITS)
            if (m := epoch.on(split)).lacks_loss
        ]
    return from_problems(problems, Level.FILE, "Every loss is consistent with its accuracy.")


def times_add_up(evidence: Evidence) -> Finding:
    """The recorded times add up, and throughput is images per second of training.

    Rule, with a tolerance of 1%: in each epoch, data_wait_seconds <= train_seconds; over all epochs, training
    + evaluation <= the run's total_seconds; images_per_second = training images / train_seconds; the totals
    of all runs + decoding + downloads <= the job's total_seconds.

    Source: the results schema.
    """
    results = evidence.results
    problems: dict[str, list[str]] = {run.name: list(_time_problems(run)) for run in results.runs}
    timings = results.timings
    parts = sum(run.total_seconds for run in results.runs)
    parts += timings["download_seconds"] + timings["decode_seconds"]
    if parts > timings["total_seconds"] * TIME_SLACK:
        total = timings["total_seconds"]
        problems["job"] = [f"The job took {total:.1f} s in total, but its parts add up to {parts:.1f} s."]
    return from_problems(problems, Level.FILE, "Times add up in every run.")


def _time_problems(run: Run) -> Iterator[str]:
    for epoch in run.epochs:
        if epoch.data_wait_seconds > epoch.train_seconds * TIME_SLACK:
            waited = f"waited {epoch.data_wait_seconds:.3g} s for data"
            yield f"{run.name}, epoch {epoch.epoch}: {waited} in {epoch.train_seconds:.3g} s of training."
    training = sum(epoch.train_seconds for epoch in run.epochs)
    parts = training + sum(epoch.evaluation_seconds for epoch in run.epochs)
    if parts > run.total_seconds * TIME_SLACK:
        yield f"{run.name}: epochs took {parts:.3g} s, but total_seconds is {run.total_seconds:.3g} s."
    # Not the budget's images: a failed run also saw images of an epoch that is not listed.
    images = sum(epoch.train.n_samples for epoch in run.epochs)
    throughput = images / training if training > 0 else 0.0
    if abs(throughput - run.images_per_second) > throughput * (TIME_SLACK - 1):
        seen = f"{images:,} images in {training:.3g} s are {throughput:.4g} images/s"
        yield f"{run.name}: {seen}, but images_per_second is {run.images_per_second:.4g}."


def distinct_runs(evidence: Evidence) -> Finding:
    """No two runs are copies of one another.

    Rule: no two runs share a file path, the SHA-256 of predictions or checkpoint, the SHA-256 of the weights
    after any epoch (at peak rates of at least 0.00001), the validation or test loss_sum of any epoch, or all
    n_correct, if they differ in three or more epochs with ten or more incorrect predictions on validation and
    test together; if there are predictions, no two runs share an nll column. Networks that are right and
    certain all have losses of 0, so losses and predictions are compared only if they are of 30 images or more
    and the sum is at least 0.01 and no multiple of 1/4096. Runs that differ in their number of epochs alone
    are one network until the warm-up ends, and may share losses and weights until then, and predictions if
    their best epoch is one of these; after it their rates fall differently. Nor are losses and predictions
    compared of runs with one start at rates below 0.00001, which hardly move it. Independently trained
    networks differ in all of these.

    Source: a published homework that reports the same accuracy, 1054/1278, for three models.
    """
    runs = evidence.chosen
    problems: dict[str, list[str]] = {f"{a.name} {b.name}": [] for a, b in combinations(runs, 2)}
    for noun, marks in _FINGERPRINTS.items():
        owner: dict[Hashable, Run] = {}
        for run in runs:
            for mark in marks(run):
                first = owner.setdefault(mark, run)
                if first is not run and mark not in _rightly_shared(evidence.results, first, run):
                    problems[f"{first.name} {run.name}"] = [
                        f"{run.name} has the same {noun} as {first.name}."
                    ]
    for split in SPLITS:
        columns: dict[bytes, Run] = {}
        for run, rows in evidence.rows(split):
            first = columns.setdefault(rows.nll.tobytes(), run)
            may_share = hardly_moved(first, run) or have_one_best(evidence.results, first, run)
            if first is not run and not may_share and run.best is not None and is_telling(run.best.on(split)):
                problems[f"{first.name} {run.name}"] = [
                    f"{run.name} has the same {split} losses as {first.name}."
                ]
    level = Level.PREDICTIONS if evidence.predictions else Level.FILE
    return from_problems(problems, level, f"No copies among {counted(len(runs), 'run')}.")


def _rightly_shared(results: Results, a: Run, b: Run) -> list[Hashable]:
    """Files, losses and weights that two honest runs may share."""
    if hardly_moved(a, b):
        return [*_losses(a), *_curve(a)]
    n = epochs_in_common(results, a, b)
    marks = (_losses, _weights)
    shared = [mark for of in marks for mark in of(a, n) if mark in of(b, n)]
    return [*shared, *_predicted(a)] if have_one_best(results, a, b) else shared


def _files(run: Run) -> list[Hashable]:
    if run.artifacts is None or run.best is None:
        return []
    predicted = {split: run.artifacts.predictions(split) for split in SPLITS}
    checkpoint = run.artifacts.checkpoint
    paths = (file.path for file in predicted.values())
    return [*paths, checkpoint.path, checkpoint.sha256, *_predicted(run)]


def _predicted(run: Run) -> list[Hashable]:
    """SHA-256 of the files of predictions."""
    if run.artifacts is None or run.best is None:
        return []
    return [run.artifacts.predictions(split).sha256 for split in SPLITS if is_telling(run.best.on(split))]


def _losses(run: Run, most: int | None = None) -> list[Hashable]:
    found = [(split, epoch.on(split)) for epoch in run.epochs[:most] for split in SPLITS]
    return [(split, metrics.loss_sum) for split, metrics in found if is_telling(metrics)]


def _weights(run: Run, most: int | None = None) -> list[Hashable]:
    """Hashes of the weights after each epoch; lower rates may change no float32 number."""
    if run.learning_rate < LEAST_RATE:
        return []
    return [epoch.weights_sha256 for epoch in run.epochs[:most] if epoch.weights_sha256]


def _curve(run: Run) -> list[Hashable]:
    counts = tuple((e.train.n_correct, e.val.n_correct, e.test.n_correct) for e in run.epochs)
    telling = {count for count, epoch in zip(counts, run.epochs, strict=True) if _errs(epoch)}
    return [counts] if len(telling) >= FEWEST_EPOCHS_TO_COMPARE else []


def _errs(epoch: Epoch) -> bool:
    """Whether an epoch has enough incorrect predictions on enough held-out images to be told from others."""
    held_out = [epoch.on(split) for split in SPLITS]
    n_wrong = sum(found.n_samples - found.n_correct for found in held_out)
    return n_wrong >= FEWEST_ERRORS and all(found.n_samples >= FEWEST_IMAGES for found in held_out)


_FINGERPRINTS: dict[str, Callable[[Run], list[Hashable]]] = {
    "files": _files,
    "weights after some epoch": _weights,
    "loss in some epoch": _losses,
    "numbers of correct predictions": _curve,
}


def _validation(epoch: Epoch) -> str:
    return f"{epoch.val.n_correct:,} correct, loss sum {epoch.val.loss_sum:.4f}"
