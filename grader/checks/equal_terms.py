"""Level 1: the variants compete on equal terms: budget, images, start and schedule."""

from collections import defaultdict
from collections.abc import Callable, Iterable

from grader.evidence.gathered import Evidence
from grader.findings import Finding, Level, counted, from_problems
from grader.submission.record import Run


def equal_budget(evidence: Evidence) -> Finding:
    """Every variant had the training budget that the recipe specifies.

    Rule: steps = epochs * ceil(n_train / batch size) and images = epochs * n_train, in every run. Epochs are
    the recipe's, or the variant's own if it is configured with some: such a row had another budget openly,
    and the verdict compares it as such.

    Source: the results schema.
    """
    results = evidence.results
    problems: dict[str, list[str]] = {}
    summaries: dict[str, list[str]] = {}
    for run in results.completed:
        budget, n_epochs = run.budget, results.epochs_of(run.variant)
        n_train = results.splits_of(run.seed)["train"].n_samples
        steps, images = n_epochs * -(-n_train // results.batch_size), n_epochs * n_train
        epochs = counted(n_epochs, "epoch")
        budgeted = f"{epochs} of {counted(n_train, 'image')}"
        total = f"{epochs}, {counted(steps, 'step')} and {counted(images, 'image')}"
        names = summaries.setdefault(total, [])
        if run.variant not in names:
            names.append(run.variant)
        problems[run.name] = [
            f"{run.name}: expected {wanted:,} {noun} ({budgeted}), found {found:,}."
            for noun, found, wanted in (("steps", budget.steps, steps), ("images", budget.images, images))
            if found != wanted
        ]
    if len(summaries) == 1:
        return from_problems(problems, Level.FILE, f"{next(iter(summaries))} in every run.")
    listed = "; ".join(f"{', '.join(names)}: {total}" for total, names in summaries.items())
    return from_problems(problems, Level.FILE, f"{listed}.")


def same_stream(evidence: Evidence) -> Finding:
    """All variants of a seed saw the same augmented images in the same order.

    Rule: stream_sha256 is equal for all completed runs of one seed with the same number of epochs, and
    differs between seeds.

    Source: the results schema.
    """
    epochs_of = evidence.results.epochs_of
    problems = _shared_problems(
        evidence.results.completed,
        lambda run: run.budget.stream_sha256,
        "training images",
        True,
        lambda run: epochs_of(run.variant),
    )
    return from_problems(problems, Level.FILE, "Same training images for all variants of a seed.")


def same_start(evidence: Evidence) -> Finding:
    """All pretrained variants of a seed started from the same weights, and A from random ones.

    Rule: initial_sha256 is equal for all pretrained runs of one seed, differs between pretrained and random
    runs, and differs between the random runs of different seeds. A row whose head comes from another row's
    best epoch starts elsewhere: its hash differs from all of these.

    Source: the results schema.
    """
    runs = evidence.results.completed
    random = {run.initial_sha256: run.name for run in runs if run.init == "random"}
    heads = {variant.name for variant in evidence.results.variants if variant.head is not None}
    found = _shared_problems(
        [run for run in runs if run.init == "pretrained" and run.variant not in heads],
        lambda run: run.initial_sha256,
        "initial weights",
        False,
    )
    known = {run.initial_sha256: run.name for run in runs if run.variant not in heads}
    for run in runs:
        if run.variant in heads:
            same = known.get(run.initial_sha256)
            found[run.name] = [] if same is None else [f"{run.name}: starts like {same}, without its head."]
        elif run.init == "pretrained" and run.initial_sha256 in random:
            found[run.name].append(f"{run.name}: same initial weights as {random[run.initial_sha256]}.")
    first: dict[tuple[str, str], Run] = {}
    for run in runs:
        if run.init == "random" and run.variant not in heads:
            other = first.setdefault((run.variant, run.initial_sha256), run)
            problem = f"{run.name}: same initial weights as {other.name} despite another seed."
            found[run.name] = [problem] if other.seed != run.seed else []
    return from_problems(found, Level.FILE, "B and C start from the same weights, A from random ones.")


def same_schedule(evidence: Evidence) -> Finding:
    """Every variant followed the same learning-rate schedule.

    Rule: in each epoch, the learning rate divided by the run's peak rate is the same in all completed runs
    with the same number of epochs (within 1e-6) and at most 1. With resplits, whose sizes may differ, the
    runs of one seed are compared.

    Source: the results schema.
    """
    runs = [run for run in evidence.results.completed if run.epochs]
    problems: dict[str, list[str]] = {}
    alike: dict[tuple[int, int | None], Run] = {}
    for run in runs:
        seed = run.seed if evidence.results.resplit else None
        other_run = alike.setdefault((evidence.results.epochs_of(run.variant), seed), run)
        shares = [(e.epoch, e.learning_rate / run.learning_rate) for e in run.epochs]
        first = [e.learning_rate / other_run.learning_rate for e in other_run.epochs]
        problems[run.name] = [
            f"{run.name}, epoch {epoch}: the learning rate is {share:.4g} of its peak, "
            f"but {other:.4g} in {other_run.name}."
            if share <= 1 + 1e-6
            else f"{run.name}, epoch {epoch}: the learning rate is {share:.4g} times its peak."
            for (epoch, share), other in zip(shares, first, strict=False)
            if abs(share - other) > 1e-6 or share > 1 + 1e-6
        ][:1]
    return from_problems(problems, Level.FILE, "Same schedule, relative to the peak rate, in every run.")


def _shared_problems(
    runs: Iterable[Run],
    key: Callable[[Run], str],
    noun: str,
    seeds_differ: bool,
    group: Callable[[Run], int] = lambda _: 0,
) -> dict[str, list[str]]:
    """Runs of one seed and group must share a key; if `seeds_differ`, runs of different ones must not."""
    problems: dict[str, list[str]] = defaultdict(list)
    of_seed: dict[tuple[int, int], Run] = {}
    for run in runs:
        first = of_seed.setdefault((run.seed, group(run)), run)
        problems[run.name] = []
        if key(run) != key(first):
            problems[run.name].append(f"{run.name}: {noun} differ from those of {first.name}.")
    if seeds_differ:
        owner: dict[str, Run] = {}
        for run in of_seed.values():
            other = owner.setdefault(key(run), run)
            if other is not run:
                why = "another seed" if run.seed != other.seed else "other epochs"
                problems[run.name].append(f"{run.name}: same {noun} as {other.name} despite {why}.")
    return problems
