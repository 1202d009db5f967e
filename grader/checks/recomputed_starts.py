"""Level 4: what seed, weights and images determine before training, computed again."""

from collections.abc import Iterator, Mapping
from typing import Any

from grader.checks.machines import SAME_START, differing
from grader.evidence.gathered import Evidence
from grader.findings import Finding, Level, counted, from_problems, in_words, not_checked
from grader.submission.record import Run

NO_RERUN = "Requires --rerun."


def start_recomputed(evidence: Evidence) -> Finding:
    """Each run and each trial started from the weights that its seed and the pretrained file give.

    Rule: initial_sha256 and frozen_sha256_before equal the hashes of a network initialized again with the
    run's seed and the recorded weights, and no trained kernel in its checkpoint is still as it was there;
    the same of initial_sha256 of a trial, unless its head comes from another one.
    Compared only on the platform and the version of PyTorch that the results record, and only if the weights
    are at hand: imagenet from torch.hub's cache, or bundled; the summary names the others. A start that
    differs is left unjudged on another processor or GPU, or with other vector instructions, than the
    recorded ones, since fc is random in every start; frozen layers that start pretrained are not.

    Source: finetune evaluate. PyTorch draws the same initial weights with AVX2 and AVX-512 (measured with
    2.15), but others on CPUs that have neither.
    """
    found = evidence.rerun.recomputed if evidence.rerun else {}
    if not found:
        return not_checked(evidence.rerun.failure if evidence.rerun else NO_RERUN, Level.CHECKPOINTS)
    if why := _differing(evidence, ("torch", "platform")):
        return not_checked(why, Level.CHECKPOINTS)
    runs = [run for run in evidence.results.runs if found.get(run.name, {}).get("initial_sha256")]
    elsewhere = bool(_differing(evidence, SAME_START))
    runs = [run for run in runs if not elsewhere or _loads_frozen(run) or _is_same(run, found[run.name])]
    problems = {run.name: list(_start_problems(run, found[run.name], elsewhere)) for run in runs}
    problems |= _trial_problems(evidence, "initial_sha256", "start")
    unknown = {name: str(entry["why"]) for name, entry in found.items() if entry.get("why")}
    why = next(iter(unknown.values()), "No start could be computed.")
    if not problems:
        return not_checked(why, Level.CHECKPOINTS)
    summary = f"{counted(len(problems), 'start')} recomputed from seed and weights."
    if unknown:
        summary += f" Not those of {in_words(sorted(unknown))}: {why}"
    return from_problems(problems, Level.CHECKPOINTS, summary)


def stream_recomputed(evidence: Evidence) -> Finding:
    """Each run and each trial saw the training images in the order, crops and flips that its seed gives.

    Rule: stream_sha256 of a completed run, or of a trial, equals the one computed again from seed, epochs,
    recipe and the sizes of the training images. Compared only on the platform and the version of NumPy that
    the results record.

    Source: finetune evaluate. The crops are float32 numbers computed in float64: CPUs whose exponential
    functions round differently disagree about one crop in 500 million.
    """
    found = evidence.rerun.recomputed if evidence.rerun else {}
    if not found:
        return not_checked(evidence.rerun.failure if evidence.rerun else NO_RERUN, Level.CHECKPOINTS)
    if why := _differing(evidence, ("numpy", "platform")):
        return not_checked(why, Level.CHECKPOINTS)
    problems: dict[str, list[str]] = {}
    for run in evidence.results.runs:
        wanted = found.get(run.name, {}).get("stream_sha256")
        if wanted is not None:
            recorded = run.budget.stream_sha256
            why = (
                f"{run.name}: seed and recipe give the stream {wanted[:8]}…, but {recorded[:8]}… is recorded."
            )
            problems[run.name] = [] if wanted == recorded else [why]
    problems |= _trial_problems(evidence, "stream_sha256", "stream")
    if not problems:
        return not_checked("No run completed.", Level.CHECKPOINTS)
    return from_problems(
        problems, Level.CHECKPOINTS, f"{counted(len(problems), 'stream')} recomputed from seed and images."
    )


def _trial_problems(evidence: Evidence, key: str, noun: str) -> dict[str, list[str]]:
    """The trials whose start or stream was recorded otherwise, by number and name."""
    again, tuning, results = evidence.rerun, evidence.results.tuning, evidence.results
    problems: dict[str, list[str]] = {}
    for number, (trial, found) in enumerate(
        zip(tuning.trials if tuning else (), again.trials if again else (), strict=False)
    ):
        wanted, recorded = found[key], getattr(trial, key)
        elsewhere = noun == "start" and _differing(evidence, SAME_START) and wanted != recorded
        if wanted is None or elsewhere or results.variant(trial.variant) is None:
            continue
        why = f"{trial.name}: the {noun} is {wanted[:8]}…, but {recorded[:8]}… is recorded."
        problems[f"{number}: {trial.name}"] = [] if wanted == recorded else [why]
    return problems


def _loads_frozen(run: Run) -> bool:
    """Whether the layers that the run freezes come from a file, so that they are the same everywhere."""
    return run.init == "pretrained" and run.n_frozen > 0


def _is_same(run: Run, found: Mapping[str, Any]) -> bool:
    return bool(found["initial_sha256"] == run.initial_sha256)


def _start_problems(run: Run, found: Mapping[str, Any], elsewhere: bool) -> Iterator[str]:
    for noun, recorded, wanted, counts in (
        ("start", run.initial_sha256, found["initial_sha256"], not elsewhere),
        (
            "frozen layers",
            run.frozen_sha256_before,
            found["frozen_sha256"],
            not elsewhere or _loads_frozen(run),
        ),
    ):
        if counts and recorded != wanted:
            gives = f"seed and weights give {wanted[:8]}…, but {recorded[:8]}… is recorded"
            yield f"{run.name}, {noun}: {gives}."
            return
    for name in found["unchanged"][:1]:
        more = len(found["unchanged"]) - 1
        yield f"{run.name}: {name} is still as it was at the start{f' ({more} more)' if more else ''}."


def _differing(evidence: Evidence, names: tuple[str, ...]) -> str:
    """Why this machine may compute something else than the recorded one; empty if it may not."""
    here = evidence.rerun.environment if evidence.rerun else {}
    return differing(evidence.results.environment, here, names)
