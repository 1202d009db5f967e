"""Level 1: the experiment matches its configuration, and the variants compete on equal terms."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from grader.evidence import Evidence
from grader.findings import Finding, Level, counted, from_problems
from grader.record import Run
from grader.resnet18 import GROUPS
from grader.strict_json import short

ROLES = {
    "A": ("random", GROUPS, "starts from random weights and trains every layer"),
    "B": ("pretrained", GROUPS, "starts from pretrained weights and trains every layer"),
    "C": ("pretrained", ("layer4", "fc"), "starts from pretrained weights and trains layer4 and fc"),
}


def complete(evidence: Evidence) -> Finding:
    """Every configured variant was trained with every configured seed.

    Rule: there is exactly one run per variant and seed, and each is completed and has a best epoch.

    Source: the results schema.
    """
    results = evidence.results
    seen = Counter((run.variant, run.seed) for run in results.runs)
    problems: dict[str, list[str]] = {}
    for variant in results.variants:
        for seed in results.seeds:
            n = seen.pop((variant.name, seed), 0)
            name = f"{variant.name}-seed{seed}"
            problems[name] = [f"{name}: expected one run, found {n}."] if n != 1 else []
    for variant_name, seed in seen:
        name = f"{variant_name}-seed{seed}"
        problems[name] = [f"{name}: not in the configuration."]
    for run in results.runs:
        if run.status != "completed":
            problems.setdefault(run.name, []).append(
                f"{run.name}: failed: {short(run.failure or 'no reason given', width=200)}."
            )
        elif run.best is None or run.artifacts is None or run.failure is not None:
            problems.setdefault(run.name, []).append(
                f"{run.name}: completed, but lacks a best epoch or files, or records a failure."
            )
    return from_problems(problems, Level.FILE, f"{counted(len(problems), 'run')} completed.")


def roles(evidence: Evidence) -> Finding:
    """A, B and C are the three ways of training to be compared.

    Rule: A starts from random weights and trains every layer; B starts from pretrained weights and trains
    every layer; C starts from pretrained weights and trains layer4 and fc, the last two top-level modules
    that have parameters.

    Source: the definition of the experiment.
    """
    problems: dict[str, list[str]] = {}
    for name, (init, groups, sentence) in ROLES.items():
        runs = [run for run in evidence.results.runs if run.variant == name]
        problems[name] = [] if runs else [f"{name} is missing: a run that {sentence}."]
        wrong = [run for run in runs if run.init != init or set(run.trained_groups) != set(groups)]
        problems[name] += [
            f"{run.name}: starts from {run.init} weights and trains {', '.join(run.trained_groups)}, "
            f"but {name} {sentence}."
            for run in wrong
        ]
    return from_problems(problems, Level.FILE, "A, B and C are trained as defined.")


def as_configured(evidence: Evidence) -> Finding:
    """Each run was trained as configured.

    Rule: a run's init, trained groups and peak learning rate equal those of its variant in config (or the
    recipe's learning rate if the variant sets none), and no variant is configured twice.

    Source: the results schema.
    """
    results = evidence.results
    configured = {variant.name: variant for variant in results.variants}
    problems: dict[str, list[str]] = {}
    if len(configured) < len(results.variants):
        problems["config"] = ["config.variants lists a variant twice."]
    for run in results.runs:
        variant = configured.get(run.variant)
        if variant is None:
            continue  # reported by `complete`
        wanted_groups = set(GROUPS) if variant.train == "all" else set(variant.train)
        wanted_rate = results.lr if variant.lr is None else variant.lr
        found = problems.setdefault(run.name, [])
        if run.init != variant.init:
            found.append(f"{run.name}: starts from {run.init} weights, but {variant.init} configured.")
        if set(run.trained_groups) != wanted_groups:
            found.append(f"{run.name}: trains {', '.join(run.trained_groups)}, not the configured groups.")
        if run.learning_rate != wanted_rate:
            found.append(f"{run.name}: learning rate {run.learning_rate:g}, but {wanted_rate:g} configured.")
    return from_problems(problems, Level.FILE, "Every run was trained as configured.")


def equal_budget(evidence: Evidence) -> Finding:
    """Every variant had the training budget that the recipe specifies.

    Rule: steps = epochs * ceil(n_train / batch size) and images = epochs * n_train, in every run.

    Source: the results schema.
    """
    results = evidence.results
    n_train = results.splits["train"].n_samples
    steps, images = results.epochs * -(-n_train // results.batch_size), results.epochs * n_train
    epochs = counted(results.epochs, "epoch")
    budgeted = f"{epochs} of {counted(n_train, 'image')}"
    problems: dict[str, list[str]] = {}
    for run in results.runs:
        if run.status != "completed":
            continue
        budget = run.budget
        problems[run.name] = [
            f"{run.name}: expected {wanted:,} {noun} ({budgeted}), found {found:,}."
            for noun, found, wanted in (("steps", budget.steps, steps), ("images", budget.images, images))
            if found != wanted
        ]
    summary = f"{epochs}, {counted(steps, 'step')} and {counted(images, 'image')} in every run."
    return from_problems(problems, Level.FILE, summary)


def same_stream(evidence: Evidence) -> Finding:
    """All variants of a seed saw the same augmented images in the same order.

    Rule: stream_sha256 is equal for all completed runs of one seed, and differs between seeds.

    Source: the results schema.
    """
    runs = [run for run in evidence.results.runs if run.status == "completed"]
    problems = _shared_problems(runs, lambda run: run.budget.stream_sha256, "training images", True)
    return from_problems(problems, Level.FILE, "Same training images for all variants of a seed.")


def same_start(evidence: Evidence) -> Finding:
    """All pretrained variants of a seed started from the same weights, and A from random ones.

    Rule: initial_sha256 is equal for all pretrained runs of one seed, differs between pretrained and random
    runs, and differs between the random runs of different seeds.

    Source: the results schema.
    """
    runs = [run for run in evidence.results.runs if run.status == "completed"]
    random = {run.initial_sha256: run.name for run in runs if run.init == "random"}
    found = _shared_problems(
        [run for run in runs if run.init == "pretrained"],
        lambda run: run.initial_sha256,
        "initial weights",
        False,
    )
    for run in runs:
        if run.init == "pretrained" and run.initial_sha256 in random:
            found[run.name].append(f"{run.name}: same initial weights as {random[run.initial_sha256]}.")
    first: dict[tuple[str, str], Run] = {}
    for run in runs:
        if run.init == "random":
            other = first.setdefault((run.variant, run.initial_sha256), run)
            problem = f"{run.name}: same initial weights as {other.name} despite another seed."
            found[run.name] = [problem] if other.seed != run.seed else []
    return from_problems(found, Level.FILE, "B and C start from the same weights, A from random ones.")


def same_schedule(evidence: Evidence) -> Finding:
    """Every variant followed the same learning-rate schedule.

    Rule: in each epoch, the learning rate divided by the run's peak rate is the same in all completed runs
    (within 1e-6) and at most 1.

    Source: the results schema.
    """
    runs = [run for run in evidence.results.runs if run.status == "completed" and run.epochs]
    problems: dict[str, list[str]] = {}
    for run in runs:
        shares = [(e.epoch, e.learning_rate / run.learning_rate) for e in run.epochs]
        first = [e.learning_rate / runs[0].learning_rate for e in runs[0].epochs]
        problems[run.name] = [
            f"{run.name}, epoch {epoch}: the learning rate is {share:.4g} of its peak, "
            f"but {other:.4g} in {runs[0].name}."
            if share <= 1 + 1e-6
            else f"{run.name}, epoch {epoch}: the learning rate is {share:.4g} times its peak."
            for (epoch, share), other in zip(shares, first, strict=False)
            if abs(share - other) > 1e-6 or share > 1 + 1e-6
        ][:1]
    return from_problems(problems, Level.FILE, "Same schedule, relative to the peak rate, in every run.")


def _shared_problems(
    runs: Iterable[Run], key: Callable[[Run], str], noun: str, seeds_differ: bool
) -> dict[str, list[str]]:
    """Runs of one seed must share a key; if `seeds_differ`, runs of different seeds must not."""
    problems: dict[str, list[str]] = defaultdict(list)
    of_seed: dict[int, Run] = {}
    for run in runs:
        first = of_seed.setdefault(run.seed, run)
        problems[run.name] = []
        if key(run) != key(first):
            problems[run.name].append(f"{run.name}: {noun} differ from those of {first.name}.")
    if seeds_differ:
        owner: dict[str, Run] = {}
        for run in of_seed.values():
            other = owner.setdefault(key(run), run)
            if other is not run:
                problems[run.name].append(f"{run.name}: same {noun} as {other.name} despite another seed.")
    return problems
