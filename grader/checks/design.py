"""Level 1: the experiment matches its configuration, and the variants compete on equal terms."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from grader.evidence import Evidence
from grader.findings import Finding, Level, counted, from_problems, in_words, not_checked
from grader.record import Run, run_name
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
            name = run_name(variant.name, seed)
            problems[name] = [f"{name}: expected one run, found {n}."] if n != 1 else []
    for variant_name, seed in seen:
        name = run_name(variant_name, seed)
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
    that have parameters. Each has the recipe's epochs, a head initialized at random and frozen BatchNorm
    statistics in frozen layers. Other rows may be there too. A question about a row that is missing cannot be
    answered; with none of the three, this is not checked.

    Source: the definition of the experiment.
    """
    results = evidence.results
    names = dict.fromkeys(run.variant for run in results.runs)
    missing = [name for name in ROLES if name not in names]
    if len(missing) == len(ROLES):
        found = ", ".join(map(short, names))
        return not_checked(f"No variant is named A, B or C; found {found}.", Level.FILE)
    problems: dict[str, list[str]] = {}
    for name, (init, groups, sentence) in ROLES.items():
        runs = [run for run in results.runs if run.variant == name]
        if not runs:
            continue
        variant = results.variant(name)
        own = variant is not None and (variant.epochs, variant.norm, variant.head) != (None, "frozen", None)
        problems[name] = [f"{name}: has epochs, a head or BatchNorm statistics of its own."] if own else []
        wrong = [run for run in runs if run.init != init or set(run.trained_groups) != set(groups)]
        problems[name] += [
            f"{run.name}: starts from {run.init} weights and trains {', '.join(run.trained_groups)}, "
            f"but {name} {sentence}."
            for run in wrong
        ]
    present = [name for name in ROLES if name in names]
    summary = f"{in_words(present)} trained as defined."
    if missing:
        summary += f" Not judged: {in_words(missing)}, which this run does not have."
    return from_problems(problems, Level.FILE, summary)


def as_configured(evidence: Evidence) -> Finding:
    """Each run was trained as configured.

    Rule: a run's init, trained groups and peak learning rate equal those of its variant in config (or the
    recipe's learning rate if the variant sets none; `fairly-tuned` judges a tuned rate), no variant is
    configured twice, and a head comes from another configured variant.

    Source: the results schema.
    """
    results = evidence.results
    configured = {variant.name: variant for variant in results.variants}
    problems: dict[str, list[str]] = {}
    if len(configured) < len(results.variants):
        problems["config"] = ["config.variants lists a variant twice."]
    for name, row in configured.items():
        if row.head is not None and (row.head == name or row.head not in configured):
            problem = f"{name}: its head comes from {row.head}, which is no other variant."
            problems.setdefault("config", []).append(problem)
    tuned = {choice.variant for choice in results.tuning.choices} if results.tuning else set()
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
        if run.learning_rate != wanted_rate and run.variant not in tuned:
            found.append(f"{run.name}: learning rate {run.learning_rate:g}, but {wanted_rate:g} configured.")
    return from_problems(problems, Level.FILE, "Every run was trained as configured.")


def as_required(evidence: Evidence) -> Finding:
    """The experiment is the one that the policy asks for.

    Rule: dataset and split equal those of the policy's [require]; image_size equals it; epochs and seeds are
    at least as many; if tuned is true, the learning rates were tuned; if whole is true, no subset of the
    images was used. Not checked if the policy requires nothing.

    Source: the policy.
    """
    required, results = evidence.thresholds.require, evidence.results
    found: dict[str, str | int | bool] = {
        "dataset": results.dataset_name,
        "split": results.split_rule,
        "epochs": results.epochs,
        "image_size": results.image_size,
        "seeds": len(results.seeds),
        "tuned": results.tuning is not None,
        "whole": results.subset is None,
    }
    if not required:
        return not_checked("The policy requires no particular experiment.", Level.FILE)
    problems: dict[str, list[str]] = {}
    for name, wanted in required.items():
        value = found[name]
        at_least = name in ("epochs", "seeds")
        meets = value >= wanted if at_least else value == wanted  # type: ignore[operator]
        if name == "tuned":
            sentence = "The policy requires tuned learning rates (finetune train --tune)."
            meets = bool(value) or not wanted
        elif name == "whole":
            sentence = f"The policy requires all images, but the run has --subset {results.subset}."
            meets = bool(value) or not wanted
        else:
            limit = f"{'at least ' if at_least else ''}{wanted}"
            sentence = f"The policy requires {name} = {limit}, but the run has {short(value)}."
        problems[name] = [] if meets else [sentence]
    return from_problems(problems, Level.FILE, "The experiment is the one that the policy asks for.")


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
    for run in results.runs:
        if run.status != "completed":
            continue
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
    runs = [run for run in evidence.results.runs if run.status == "completed"]
    epochs_of = evidence.results.epochs_of
    problems = _shared_problems(
        runs,
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
    runs = [run for run in evidence.results.runs if run.status == "completed"]
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
    runs = [run for run in evidence.results.runs if run.status == "completed" and run.epochs]
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
