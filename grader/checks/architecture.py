"""Level 1: the trained parameters, compared with the names and shapes of ResNet-18."""

from math import prod

from grader.evidence.gathered import Evidence
from grader.findings import Finding, Level, from_problems
from grader.submission import resnet18


def parameter_totals(evidence: Evidence) -> Finding:
    """Parameter totals match the listed shapes.

    Rule: for each run, every count is the product of its shape, n_trained is the sum of the counts,
    and n_trained + n_frozen is the number of parameters of ResNet-18 with this many classes (11,176,512 +
    513 per class).

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
                f"{run.name}: n_trained is {run.n_trained:,}, but the listed counts add up to {listed:,}."
            )
        elif run.n_trained + run.n_frozen != whole:
            total = f"{run.n_trained:,} trained + {run.n_frozen:,} frozen = {run.n_trained + run.n_frozen:,}"
            found.append(f"{run.name}: {total}, but ResNet-18 with these classes has {whole:,} parameters.")
        problems[run.name] = found
    return from_problems(problems, Level.FILE, f"Parameters add up to {whole:,} in every run.")


def resnet18_layers(evidence: Evidence) -> Finding:
    """The trained parameters are exactly those of the trained ResNet-18 layer groups.

    Rule: the listed names and shapes are those of ResNet-18, with this many classes, in the run's
    trained_groups, without duplicates.

    Source: He et al., Deep Residual Learning for Image Recognition (2016), table 1; names as in torchvision.
    """
    problems: dict[str, list[str]] = {}
    for run in evidence.results.runs:
        wanted = resnet18.of_groups(len(evidence.results.classes), run.trained_groups)
        listed = {p.name: p.shape for p in run.trainable_parameters}
        found = [f"{run.name}: {name} is missing from the list." for name in wanted.keys() - listed.keys()]
        found += [
            f"{run.name}: {name} does not belong to a trained group."
            for name in listed.keys() - wanted.keys()
        ]
        found += [
            f"{run.name}: {name} has shape {list(shape)}, but ResNet-18's has {list(wanted[name])}."
            for name, shape in listed.items()
            if name in wanted and shape != wanted[name]
        ]
        if len(listed) < len(run.trainable_parameters):
            found.append(f"{run.name}: a parameter is listed twice.")
        problems[run.name] = sorted(found)
    return from_problems(problems, Level.FILE, "Names and shapes match ResNet-18 in every run.")


def frozen_unchanged(evidence: Evidence) -> Finding:
    """Training left the frozen layers unchanged, including their BatchNorm statistics.

    Rule: for each run, frozen_sha256_after equals frozen_sha256_before. The hash is that of empty input if
    and only if every group is trained. Runs that freeze the same pretrained groups have the same hash. In a
    row configured with norm = "adapt", the statistics of frozen layers follow the images, so that they are
    not part of what must stay; the hashes cover the frozen parameters.

    Source: the results schema.
    """
    problems: dict[str, list[str]] = {}
    first: dict[tuple[frozenset[str], bool], tuple[str, str]] = {}
    adapting = {variant.name for variant in evidence.results.variants if variant.norm == "adapt"}
    for run in evidence.results.runs:
        found: list[str] = []
        before, after = run.frozen_sha256_before, run.frozen_sha256_after
        frozen = frozenset(resnet18.GROUPS) - frozenset(run.trained_groups)
        if before != after:
            found.append(f"{run.name}: frozen layers changed in training ({before[:8]}… to {after[:8]}…).")
        elif frozen and before == EMPTY_SHA256:
            found.append(
                f"{run.name}: froze {', '.join(sorted(frozen))}, but the hash is that of empty input."
            )
        elif not frozen and before != EMPTY_SHA256:
            found.append(f"{run.name}: froze nothing, but the hash is not that of empty input.")
        elif frozen and "fc" not in frozen and run.init == "pretrained":
            name, known = first.setdefault((frozen, run.variant in adapting), (run.name, before))
            if known != before:
                found.append(f"{run.name}: frozen layers differ from those of {name}.")
        problems[run.name] = found
    return from_problems(problems, Level.FILE, "Frozen layers are bit-identical before and after training.")


EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
