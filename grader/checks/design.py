"""Level 1: the experiment is the one that was configured, defined and asked for."""

from collections import Counter

from grader.evidence.gathered import Evidence
from grader.findings import Finding, Level, counted, from_problems, in_words, not_checked
from grader.reading.strict_json import short
from grader.submission.record import run_name
from grader.submission.resnet18 import GROUPS

ROLES = {
    "A": ("random", GROUPS, "starts from random weights and trains every layer"),
    "B": ("pretrained", GROUPS, "starts from pretrained weights and trains every layer"),
    "C": ("pretrained", ("layer4", "fc"), "starts from pretrained weights and trains layer4 and fc"),
}


def complete(evidence: Evidence) -> Finding:
    """Every configured variant was trained with every configured seed.

    Rule: there is exactly one run per variant and seed, and each is completed and has a best epoch, files
    and, from version 2 of the results on, a calibration.

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
        elif run.calibration is None and not results.schema_version.startswith("1."):
            problems.setdefault(run.name, []).append(
                f"{run.name}: completed, but its calibration is null, which finetune never writes."
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
        wanted_rate = results.lr if variant.lr is None else variant.lr
        found = problems.setdefault(run.name, [])
        if run.init != variant.init:
            found.append(f"{run.name}: starts from {run.init} weights, but {variant.init} configured.")
        if set(run.trained_groups) != set(variant.groups):
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
