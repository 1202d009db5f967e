"""Level 5: the recorded times of the variants compare as they do where they are trained again."""

from collections.abc import Callable, Mapping, Sequence
from math import inf
from statistics import median

from grader.checks.replay import is_here, same_bits_anywhere
from grader.evidence.gathered import Evidence
from grader.findings import Finding, Level, Status, from_problems, in_words, not_checked
from grader.submission.record import Results, Run
from grader.submission.resnet18 import GROUPS

NEAR, FAR = 1.3, 2.0
"""Factor by which recorded and replayed ratios of two runs' CPU times may differ on the machine that the
results name, and which no load explains: a program on the core's other hardware thread during one of the runs
lengthens its CPU time by half, and so does one that takes turns if it empties the cache, otherwise by a tenth
(docs/detection.md)."""

NEAR_ELSEWHERE = 2.5
"""The same where another processor, or other threads or precision, give other bits, so that the ratio itself
differs: by 1.4 to 2.0 between AVX-512 and AVX2. There, nothing fails."""

FEWEST_EPOCHS = 2
"""Epochs after the first one that failing takes: the start of a program costs CPU time once, which was 0.4
seconds where an epoch took 0.2, and is spent in the first epoch, or in the first after `--resume`."""

MIN_SECONDS = 1e-3
"""Less is taken for this much: no epoch takes less, and none that claims to is left out."""

Factors = Sequence[tuple[Run, float]]
"""Runs of a seed, and what each one's recorded time is to that of training again."""


def times_replayed(evidence: Evidence) -> Finding:
    """The variants' recorded times compare as when they are trained again.

    Rule: a run's value is its median CPU time per epoch, without the first epoch if there are others, as
    recorded, over the least CPU time of an epoch of its variant as trained again, which takes three passes if
    there is time. Runs of a seed have the same value but for chance and load, however fast the machine is.
    Holds if the largest of a seed is at most 1.3 times the smallest, fails if it is over 2 times with one
    thread, also by the least recorded time of each run, and two runs so far apart have at least two epochs
    after the first; otherwise inconclusive. On another kind of machine than the results name, nothing fails;
    there it holds up to 2.5 times unless weights agree bit for bit, and is inconclusive above. Where the
    features of frozen layers are cached, only epochs that find them in memory count. Inconclusive if a run
    has no time to compare, although its variant was trained again. Of CPUs alone: the CPU time says nothing
    about a GPU's. Fails only beyond what other programs can do to CPU times.

    Source: `finetune replay`, run by the grader; tolerances measured in docs/detection.md.
    """
    if evidence.replay is None:
        return not_checked("Requires --replay.", Level.REPLAY)
    if evidence.replay.failure:
        return not_checked(evidence.replay.failure, Level.REPLAY)
    seeds = {seed: factors for seed, factors in _factors(evidence).items() if len(factors) > 1}
    if not seeds:
        why = "Requires recorded CPU times of two variants, of which epochs were trained again on a CPU."
        return not_checked(why, Level.REPLAY)
    near = _near(evidence)
    # Threads that wait for one another spend CPU time, too.
    far = FAR if is_here(evidence) and evidence.results.environment["threads"] == 1 else inf
    spreads = {seed: _spread(found) for seed, found in seeds.items()}
    steady = {seed: _spread(found) for seed, found in _factors(evidence, _steady).items()}
    worst = max(spreads, key=lambda seed: spreads[seed])
    said = {seed: _said(evidence, found) for seed, found in seeds.items()}
    problems = {
        f"seed {seed}": [said[seed]] if min(spread, steady.get(seed, 1.0)) > far else []
        for seed, spread in spreads.items()
    }
    numbers = {"largest_factor": spreads[worst]} | {
        f"{run.name}_to_replay": factor for found in seeds.values() for run, factor in found
    }
    summary = f"The runs' CPU times compare as when trained again, within a factor of {spreads[worst]:.2f}."
    finding = from_problems(problems, Level.REPLAY, summary)
    status, summary = finding.status, finding.summary
    if status is Status.HOLDS and spreads[worst] > near:
        status, summary = Status.INCONCLUSIVE, f"{said[worst]} Load, or another machine, could explain it."
    elif status is Status.HOLDS and (unknown := _unknown(evidence)):
        status, summary = Status.INCONCLUSIVE, _unsaid(unknown)
    return Finding(status, Level.REPLAY, summary, finding.details, numbers, finding.held, finding.judged)


def dispute(evidence: Evidence, *variants: str) -> str:
    """What training again says against the recorded times of two variants; empty if nothing."""
    near = _near(evidence)
    if unknown := [run for run in _unknown(evidence) if run.variant in variants]:
        return _unsaid(unknown)
    for factors in _factors(evidence).values():
        found = [(run, factor) for run, factor in factors if run.variant in variants]
        if len(found) > 1 and _spread(found) > near:
            return _said(evidence, found)
    return ""


def _unknown(evidence: Evidence) -> list[Run]:
    """Runs that were trained again, but whose own epochs give no time to compare."""
    return [run for run, _ in _trained_again(evidence) if _recorded(evidence.results, run, median) is None]


def _unsaid(runs: Sequence[Run]) -> str:
    """What runs without a comparable time call for."""
    names = in_words([run.name for run in runs])
    return f"No CPU time is recorded of {names} that compares with that of training again."


def _near(evidence: Evidence) -> float:
    """Up to which factor times agree; equal bits take equal instructions, whatever a processor is called."""
    return NEAR if is_here(evidence) or same_bits_anywhere(evidence) else NEAR_ELSEWHERE


def _spread(factors: Factors) -> float:
    values = [factor for _, factor in factors]
    return max(values) / min(values)


def _steady(seconds: Sequence[float]) -> float | None:
    """The least of several epochs, which no start of a program lengthens."""
    return min(seconds) if len(seconds) >= FEWEST_EPOCHS else None


def _factors(
    evidence: Evidence, of: Callable[[Sequence[float]], float | None] = median
) -> dict[int, Factors]:
    """Recorded over replayed CPU time per epoch of each run of which both are known, by seed."""
    found: dict[int, list[tuple[Run, float]]] = {}
    for run, again in _trained_again(evidence):
        seconds = _recorded(evidence.results, run, of)
        if seconds:
            found.setdefault(run.seed, []).append((run, seconds / again))
    return {**found}


def _trained_again(evidence: Evidence) -> list[tuple[Run, float]]:
    """Completed runs, and the least CPU time of an epoch of their variant when it was trained again."""
    replayed = _replayed(evidence)
    chosen = evidence.chosen if replayed else ()
    return [
        (run, replayed[run.variant])
        for run in chosen
        if run.variant in replayed and run.status == "completed"
    ]


def _recorded(results: Results, run: Run, of: Callable[[Sequence[float]], float | None]) -> float | None:
    """CPU time of an epoch, of those that count; None if it is not known."""
    epochs = run.epochs[1:] or run.epochs
    if _caches(results, run.trained_groups):
        epochs = run.epochs[results.cache_views :]
    seconds = [epoch.train_cpu_seconds or 0.0 for epoch in epochs]
    return of([max(each, MIN_SECONDS) for each in seconds]) if any(seconds) else None


def _replayed(evidence: Evidence) -> dict[str, float]:
    """Least CPU time of an epoch, by variant; empty unless both machines computed on CPUs."""
    replay, results = evidence.replay, evidence.results
    if replay is None or replay.environment is None:
        return {}
    if results.device != "cpu" or replay.environment.get("device") != "cpu":
        return {}
    of_run = {run.name: run for run in results.runs}
    found: dict[str, list[float]] = {}
    for passage in replay.passages:
        run = of_run.get(passage.run)
        if passage.trial is None and run is not None and not _caches(results, run.trained_groups):
            found.setdefault(run.variant, []).extend(_seconds(passage.epochs))
    for repeat in replay.repeats:
        found.setdefault(repeat["variant"], []).extend(_seconds([repeat]))
    known = {variant: min(seconds) for variant, seconds in found.items() if seconds}
    return {variant: least for variant, least in known.items() if least > MIN_SECONDS}


def _seconds(epochs: Sequence[Mapping[str, float | None]]) -> list[float]:
    return [epoch.get("train_cpu_seconds") or 0.0 for epoch in epochs]


def _caches(results: Results, trained: Sequence[str]) -> bool:
    """Whether the outputs of frozen layers were kept, so that later epochs take less time."""
    return results.cache_views is not None and GROUPS[0] not in trained


def _said(evidence: Evidence, factors: Factors) -> str:
    """The two runs of a seed whose times differ most from those of training again."""
    (low, least), (high, most) = (pick(factors, key=lambda pair: pair[1]) for pick in (min, max))
    times = _replayed(evidence)
    again = times[low.variant] / times[high.variant]
    return (
        f"{low.name}: an epoch took {again * least / most:.2g} times the CPU time of one of {high.name} as "
        f"recorded, but {again:.2g} times as trained again."
    )
