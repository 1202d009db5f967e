"""How far above an instructor's own runs a submission's accuracy may plausibly be."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, variance

from grader.errors import UsageError
from grader.evidence.traces import Trace, Traces
from grader.findings import counted, in_points
from grader.statistics.distributions import student_quantile

CONFIDENCE = 0.999  # one-sided: one honest variant in a thousand is flagged
SAME = ("data set", "split", "test images")
"""What must agree for accuracies to be comparable; other differences are named beside a flag."""


@dataclass(frozen=True)
class Reference:
    """The instructor's runs.

    Attributes:
        runs: By variant.
        experiment: What they were.
        deviation: Standard deviation of test accuracy between seeds, pooled over the variants.
        degrees: Its degrees of freedom.
    """

    runs: Mapping[str, Sequence[Trace]]
    experiment: Mapping[str, str | int]
    deviation: float
    degrees: int


def reference_of(traces: Sequence[Traces]) -> Reference:
    """The band that the instructor's run folders give.

    Raises:
        UsageError: They are of different experiments, or no variant has two seeds.
    """
    first = traces[0].experiment
    if any(other.experiment != first for other in traces):
        raise UsageError(
            "--reference: the runs must be of one experiment; give those of one recipe and data set."
        )
    runs: dict[str, dict[int, Trace]] = {}
    for run in (run for found in traces for run in found.runs):
        runs.setdefault(run.variant, {})[run.seed] = run
    by_variant = {variant: list(found.values()) for variant, found in runs.items()}
    spread = [variance(map(_accuracy, found)) for found in by_variant.values() if len(found) > 1]
    degrees = sum(len(found) - 1 for found in by_variant.values())
    if not degrees:
        raise UsageError("--reference needs at least two seeds of a variant, to know how much seeds differ.")
    weights = [len(found) - 1 for found in by_variant.values() if len(found) > 1]
    pooled = sum(v * w for v, w in zip(spread, weights, strict=True)) / degrees
    return Reference(by_variant, first, sqrt(pooled), degrees)


def implausible(traces: Traces, reference: Reference) -> Iterator[str]:
    """One sentence for each variant whose mean test accuracy is above the upper limit for a new run.

    The limit is m + t * sqrt(s^2 (1/k + 1/n) + p (1 - p) (1/N + 1/M)): m is the mean of k reference runs,
    n the number of the submission's seeds, s the larger of the variant's and the pooled standard deviation
    between seeds, p the mean accuracy, N and M the numbers of test images, and t the quantile 0.999 of
    Student's distribution with the pooled degrees of freedom. On the same images the last term is too large,
    which costs sensitivity but no false alarms.
    """
    known, found = reference.experiment, traces.experiment
    other = [name for name in SAME if found[name] != known[name]]
    if other:
        said = ", ".join(f"{name} {found[name]} instead of {known[name]}" for name in other)
        yield f"not comparable with the reference: {said}"
        return
    differences = [
        f"{name} {found[name]} instead of {known[name]}" for name in known if found[name] != known[name]
    ]
    for variant, runs in reference.runs.items():
        own = [run for run in traces.runs if run.variant == variant]
        if not own:
            continue
        values, reached = [_accuracy(run) for run in runs], mean(map(_accuracy, own))
        spread = max(reference.deviation**2, variance(values) if len(values) > 1 else 0)
        p = (mean(values) + reached) / 2
        images = p * (1 - p) * (1 / runs[0].n_test + 1 / own[0].n_test)
        error = sqrt(spread * (1 / len(values) + 1 / len(own)) + images)
        allowed = student_quantile(CONFIDENCE, reference.degrees) * error
        gap = reached - mean(values)
        if gap > allowed:
            yield (
                f"{variant} has {100 * reached:.1f}% on test, {in_points(gap)} points from the reference "
                f"({counted(len(values), 'run')}); up to {in_points(allowed)} are plausible"
                + (f"; {', '.join(differences)}" if differences else "")
            )


def _accuracy(run: Trace) -> float:
    return run.n_correct / run.n_test
