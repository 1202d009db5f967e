"""Does C train faster than B? Asked of a machine that others may have used at the same time."""

from collections.abc import Callable, Sequence
from math import isfinite
from statistics import median, quantiles

from grader.checks.replayed_times import dispute
from grader.evidence.gathered import Evidence
from grader.findings import Finding, Level, Status, not_checked
from grader.statistics import means
from grader.statistics.proportions import Interval
from grader.submission.record import Epoch, Run

CLEAR_IN_ONE_JOB = 0.75
"""With one seed nothing tells how much the times of two runs differ by themselves."""

CLEAR_TO_THE_PROCESSOR = 0.65
"""With one or two seeds, of CPU times. A program on a core's other hardware thread lengthens them by
half, and equal work then has a ratio of 0.67 (docs/detection.md)."""

CLEAR_OVER_SEEDS = 0.9
"""Differences below a tenth do not count: in the course of a job, a machine's speed drifts by as much."""

BUSY_SPREAD = 1.5  # slowest epoch of a run to its fastest
BUSY_CORES = 0.85  # CPU time per second of a run's median epoch, relative to its best epoch

BUSY_CONTROL = 1.15  # A's time to B's or the reverse: both train every layer

MIN_SECONDS = 1e-6

Epochs = Sequence[Epoch]
Pair = tuple[Epochs, Epochs]


def c_faster(evidence: Evidence) -> Finding:
    """C trains faster than B.

    Rule: a run's value is its median training time per epoch, without the first epoch if there are others.
    One seed: C is faster in this job if the ratio is at most 0.75 and three quarters of C's epochs (at least
    two) take less time than three quarters of B's. Two seeds: each by itself. More: C is faster if the
    interval of the ratio C to B, paired by seed, with Student's t on the logarithms, is below 0.9. Slower:
    the same with C and B exchanged. On a CPU, CPU time must agree, by a ratio of at most 0.9, or 0.65 with
    one or two seeds, because other programs lengthen the wall-clock time more than the CPU time; where it is
    not recorded, C is never called slower, and one seed is judged only if no epoch took 1.5 times as long as
    another one of its run. Nor is one seed judged if an epoch of A took over 1.15 times as long as one of B,
    or the reverse: they do the same work. Nor are times that training again contradicts (`times-replayed`).
    Holds if faster, fails if slower, otherwise inconclusive. Epochs
    are no independent samples, since the load of a machine persists from one to the next.

    Source: "Student", Biometrika 6 (1908) 1-25; false rates simulated under load in docs/detection.md.
    """
    pairs = [(_timed(c), _timed(b)) for c, b in evidence.pairs("C", "B")]
    pairs = [(c, b) for c, b in pairs if c and b]
    if not pairs:
        return not_checked("B and C need a common seed with recorded times.", Level.FILE)
    confidence = evidence.thresholds.confidence
    on_cpu = evidence.results.device == "cpu" and all(_cpu(epochs) for pair in pairs for epochs in pair)
    ratio = _ratio(pairs, _wall, confidence)
    cpu = _ratio(pairs, _cpu, confidence).estimate if on_cpu else None
    timed = [run for runs in evidence.pairs("C", "B") if all(map(_timed, runs)) for run in runs]
    signs = [sign for run in timed for sign in _signs_of_load(run)]
    control = _sign_of_control(evidence) if len(pairs) == 1 else []
    disputed = dispute(evidence, "B", "C")
    signs = control + signs
    status = (
        Status.INCONCLUSIVE
        if control or disputed
        else _status(pairs, confidence, on_cpu, is_busy=bool(signs))
    )
    waits = [sum(e.data_wait_seconds for e in es) / sum(_wall(es)) for es in _pooled(pairs)]
    summary = f"An epoch of C takes {ratio.estimate:.2f} times as long as one of B"
    summary += f" ({ratio.low:.2f} to {ratio.high:.2f})" if isfinite(ratio.high) else " in this job"
    summary += f", in CPU time {cpu:.2f}" if cpu is not None else ""
    summary += f"; share of time waiting for data: C {waits[0]:.0%}, B {waits[1]:.0%}."
    if status is Status.INCONCLUSIVE:
        summary += f" {disputed or _why_not(signs, len(pairs))}"
    numbers = {
        "ratio": ratio.estimate, "low": ratio.low, "high": ratio.high, "cpu_ratio": cpu,
        "c_wait_share": waits[0], "b_wait_share": waits[1],
    }  # fmt: skip
    known = {name: value for name, value in numbers.items() if value is not None and isfinite(value)}
    details = tuple(signs[1:]) if status is Status.INCONCLUSIVE else ()
    return Finding(status, Level.FILE, summary, details, known, int(status is Status.HOLDS), 1)


def _timed(run: Run) -> Epochs:
    return [e for e in run.epochs[1:] or run.epochs if e.train_seconds > MIN_SECONDS]


def _wall(epochs: Epochs) -> list[float]:
    return [e.train_seconds for e in epochs]


def _cpu(epochs: Epochs) -> list[float]:
    """Processor seconds of each epoch; empty unless all are recorded."""
    found = [e.train_cpu_seconds for e in epochs if e.train_cpu_seconds and e.train_cpu_seconds > MIN_SECONDS]
    return found if len(found) == len(epochs) else []


def _pooled(pairs: Sequence[Pair]) -> list[list[Epoch]]:
    return [[epoch for pair in pairs for epoch in pair[i]] for i in (0, 1)]


def _ratio(pairs: Sequence[Pair], times: Callable[[Epochs], list[float]], confidence: float) -> Interval:
    """Ratio of the medians of two runs with the same seed, over seeds."""
    first, second = ([median(times(pair[i])) for pair in pairs] for i in (0, 1))
    ratio = means.ratio_of_pairs(first, second, confidence)
    if len(pairs) != 2:
        return ratio
    each = [x / y for x, y in zip(first, second, strict=True)]  # Student's interval would be nearly endless
    return Interval(ratio.estimate, min(each), max(each))


def _status(pairs: Sequence[Pair], confidence: float, on_cpu: bool, is_busy: bool) -> Status:
    swapped = [(b, c) for c, b in pairs]
    for status, ordered in ((Status.HOLDS, pairs), (Status.FAILS, swapped)):
        if on_cpu:
            clear = CLEAR_OVER_SEEDS if len(pairs) > 2 else CLEAR_TO_THE_PROCESSOR
            confirmed = _ratio(ordered, _cpu, confidence).estimate <= clear
        else:
            confirmed = status is Status.HOLDS and not (is_busy and len(pairs) == 1)
        if confirmed and _is_clear(ordered, _ratio(ordered, _wall, confidence)):
            return status
    return Status.INCONCLUSIVE


def _is_clear(pairs: Sequence[Pair], ratio: Interval) -> bool:
    """Whether the first of each pair took clearly less wall-clock time."""
    if len(pairs) > 2:
        return ratio.high < CLEAR_OVER_SEEDS
    return all(
        min(len(first), len(second)) > 1
        and median(_wall(first)) <= CLEAR_IN_ONE_JOB * median(_wall(second))
        and _quartile(_wall(first), 3) < _quartile(_wall(second), 1)
        for first, second in pairs
    )


def _quartile(values: Sequence[float], number: int) -> float:
    return quantiles(values, n=4, method="inclusive")[number - 1]


def _signs_of_load(run: Run) -> list[str]:
    """What suggests that other programs used the machine during a run."""
    epochs, found = _timed(run), []
    wall = _wall(epochs)
    if max(wall) > BUSY_SPREAD * min(wall):
        found.append(f"Epochs of {run.name} took {min(wall):.3g} to {max(wall):.3g} s.")
    cores = [c / w for c, w in zip(_cpu(epochs), wall, strict=False)]
    if cores and median(cores) < BUSY_CORES * max(cores):
        found.append(
            f"In its best epoch {run.name} got {max(cores):.2f} cores, but {median(cores):.2f} in most."
        )
    return found


def _sign_of_control(evidence: Evidence) -> list[str]:
    """The machine's speed changed if A and B, which do the same work, took different times."""
    control = [
        (_timed(a), _timed(b)) for a, b in evidence.pairs("A", "B") if a.trained_groups == b.trained_groups
    ]
    for a, b in control:
        if a and b:
            x, y = median(_wall(a)), median(_wall(b))
            if max(x, y) > BUSY_CONTROL * min(x, y):
                return [
                    f"An epoch of A took {x:.3g} s and one of B {y:.3g} s, although both train every layer."
                ]
    return []


def _why_not(signs: Sequence[str], n_seeds: int) -> str:
    if signs:
        return f"The machine was busy, so the times cannot be compared: {signs[0][0].lower()}{signs[0][1:]}"
    if n_seeds == 1:
        return "In one job only a clear difference counts; more epochs or seeds would settle it."
    return "More seeds or a less busy machine would settle it."
