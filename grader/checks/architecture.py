"""Level 1: what was trained, counted again from the names and shapes of ResNet-18."""

from math import prod

from grader import resnet18
from grader.evidence import Evidence
from grader.findings import Finding, Level, from_problems


def parameter_totals(evidence: Evidence) -> Finding:
    """The parameter totals are the sums of the listed shapes.

    Rule: for each run, every listed count is the product of its shape, n_trained is the sum of the counts,
    and n_trained + n_frozen is the number of parameters of ResNet-18 with this many classes
    (11,176,512 + 513 per class).

    Source: the results schema.
    """
    whole = resnet18.count(resnet18.parameter_shapes(len(evidence.results.classes)))
    problems: dict[str, list[str]] = {}
    for run in evidence.results.runs:
        listed = sum(parameter.count for parameter in run.trainable_parameters)
        found = [
            f"{run.name}: {p.name} of shape {list(p.shape)} has {prod(p.shape):,} elements, not {p.count:,}."
            for p in run.trainable_parameters
            if prod(p.shape) != p.count
        ]
        if listed != run.n_trained:
            found.append(
                f"{run.name}: n_trained is {run.n_trained:,}; the listed counts add up to {listed:,}."
            )
        elif run.n_trained + run.n_frozen != whole:
            total = f"{run.n_trained:,} trained + {run.n_frozen:,} frozen = {run.n_trained + run.n_frozen:,}"
            found.append(f"{run.name}: {total}; ResNet-18 with these classes has {whole:,}.")
        problems[run.name] = found
    return from_problems(problems, Level.FILE, f"Trained and frozen add up to {whole:,} in every run.")


def resnet18_layers(evidence: Evidence) -> Finding:
    """The trained parameters are those of ResNet-18's claimed groups.

    Rule: the names and shapes listed are exactly those that ResNet-18 with this many classes has in the
    run's trained_groups; none twice.

    Source: He et al., Deep Residual Learning for Image Recognition (2016), table 1; names as in torchvision.
    """
    problems: dict[str, list[str]] = {}
    for run in evidence.results.runs:
        wanted = resnet18.of_groups(len(evidence.results.classes), run.trained_groups)
        listed = {p.name: p.shape for p in run.trainable_parameters}
        found = [f"{run.name}: {name} is not listed." for name in wanted.keys() - listed.keys()]
        found += [
            f"{run.name}: {name} is not in the groups trained." for name in listed.keys() - wanted.keys()
        ]
        found += [
            f"{run.name}: {name} has shape {list(shape)}; ResNet-18's has {list(wanted[name])}."
            for name, shape in listed.items()
            if name in wanted and shape != wanted[name]
        ]
        if len(listed) < len(run.trainable_parameters):
            found.append(f"{run.name}: a parameter is listed twice.")
        problems[run.name] = sorted(found)
    return from_problems(problems, Level.FILE, "Names and shapes are ResNet-18's in every run.")


def frozen_unchanged(evidence: Evidence) -> Finding:
    """What was frozen is the same after training as before, BatchNorm statistics included.

    Rule: for each run, frozen_sha256_after equals frozen_sha256_before. It is the SHA-256 of nothing when
    every group is trained, and only then. Runs that freeze the same pretrained groups have the same one.

    Source: the results schema.
    """
    problems: dict[str, list[str]] = {}
    first: dict[frozenset[str], tuple[str, str]] = {}
    for run in evidence.results.runs:
        found: list[str] = []
        before, after = run.frozen_sha256_before, run.frozen_sha256_after
        frozen = frozenset(resnet18.GROUPS) - frozenset(run.trained_groups)
        if before != after:
            found.append(f"{run.name}: the frozen part changed in training ({before[:8]}… to {after[:8]}…).")
        elif frozen and before == EMPTY_SHA256:
            found.append(
                f"{run.name}: {', '.join(sorted(frozen))} are frozen, but the hash is that of nothing."
            )
        elif not frozen and before != EMPTY_SHA256:
            found.append(f"{run.name}: everything is trained, but the frozen hash is not that of nothing.")
        elif frozen and "fc" not in frozen and run.init == "pretrained":
            name, known = first.setdefault(frozen, (run.name, before))
            if known != before:
                found.append(f"{run.name}: the frozen part is not the one that {name} has.")
        problems[run.name] = found
    return from_problems(problems, Level.FILE, "The frozen part is bit for bit the same in every run.")


EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
