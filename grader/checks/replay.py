"""Level 5: training again gives what was recorded."""

from collections.abc import Iterator
from dataclasses import replace

from grader.checks.machines import SAME_START, differing
from grader.evidence.gathered import Evidence
from grader.findings import Finding, Level, Status, counted, from_problems, not_checked
from grader.isolated.replay import Passage, Replay
from grader.isolated.replayed import Outcome, Recorded, compared, has_same_bits, recorded

SAME_RESULT = (*SAME_START, "platform", "torch", "numpy", "threads")
"""Where these agree, a replay on a CPU is bit-identical."""


def replay_agrees(evidence: Evidence) -> Finding:
    """Training again from the recorded start gives the recorded epochs.

    Rule: trained again are the first epoch of each run (or as many as --replay-epochs says), the epoch after
    a kept state, and as many epochs of one trial of each variant, drawn at random. A replayed epoch agrees if
    its weights and predictions have the recorded hashes, as on the same kind of processor with as many
    threads and the same libraries; elsewhere, for a run from pretrained weights, if its training loss differs
    by at most 0.3% of itself and of its distance from ln K, that of guessing among K classes, its losses on
    validation and test by at most 5%, and their numbers of correct predictions by at most the square root of
    the mean number of incorrect ones (or 2). It disagrees if the training loss differs by more than 5%, or
    such a number by more than 4 times that square root; for a run from random weights, in which rounding
    grows fast, if the training loss differs by more than 25%; for epochs after one that did not agree bit for
    bit, if it differs by more than 100%. It also disagrees if it has the recorded weights, but gives other
    figures with them: losses that differ by more than 0.1%, or more than 2 correct predictions; or if the
    weights have moved to the recorded ones, although the results name another kind of device. Shares are of
    the smaller loss. Otherwise it is inconclusive. A trial that is recorded as diverged where training again
    gives a finite loss is inconclusive, and disagrees if the mean loss is below ln K. A trial at a rate above
    0.02, for which nothing was measured, disagrees only on the machine and with the libraries that the
    results name. A start must have the recorded hash on the same kind of machine and version of PyTorch;
    elsewhere fc, which is random in every start, may be another one. A kept state must be the recorded file
    and hold the weights that its epoch committed to. Holds if every epoch agrees, fails if one disagrees. On
    the machine and with the libraries that the run names, an honest epoch agrees bit for bit, so that close
    ones are inconclusive, and the finding says so.

    Source: `finetune replay`, run by the grader; tolerances measured in docs/detection.md.
    """
    found = evidence.replay
    if found is None:
        return not_checked("Requires --replay.", Level.REPLAY)
    if found.failure:
        altered = {path: problems for path, problems in (found.states or {}).items() if problems}
        if altered:
            return from_problems(altered, Level.REPLAY, "")
        return not_checked(found.failure, Level.REPLAY)
    problems, counts = _compare_all(evidence, found)
    n_unclear = counts[Outcome.UNCLEAR]
    summary = (
        f"{counted(sum(counts.values()), 'epoch')} trained again: {counts[Outcome.IDENTICAL]} bit for bit, "
    )
    summary += f"{counts[Outcome.CLOSE]} but for rounding, {n_unclear} too sensitive to rounding to tell."
    finding = from_problems(problems, Level.REPLAY, summary)
    if finding.status is Status.HOLDS and n_unclear:
        summary += f" {_unclear_here(evidence)}"
        finding = replace(finding, status=Status.INCONCLUSIVE, summary=summary)
    notes = [f"--replay-seed {found.seed} repeats the draws."]
    if found.omitted:
        notes.append(f"Left out for lack of time: {', '.join(found.omitted)}.")
    if found.dependent:
        notes.append(f"Left out, because their head comes from another run: {', '.join(found.dependent)}.")
    numbers = {"identical": counts[Outcome.IDENTICAL], "close": counts[Outcome.CLOSE], "unclear": n_unclear}
    return replace(finding, details=(*finding.details, *notes), numbers=numbers)


def _compare_all(evidence: Evidence, found: Replay) -> tuple[dict[str, list[str]], dict[Outcome, int]]:
    """The problems of each passage, and how many epochs compare in which way."""
    problems: dict[str, list[str]] = {}
    counts = dict.fromkeys(Outcome, 0)
    for passage in found.passages:
        run = recorded(evidence.results, passage)
        item = problems.setdefault(f"{run.name} from epoch {passage.first}", [])
        item.extend(_start_problems(evidence, run, passage))
        wanted = min(found.epochs, len(run.epochs)) if passage.first == 1 else 1
        if len(passage.epochs) < wanted:
            lost = passage.first + len(passage.epochs)
            item.append(f"{run.name}: training epoch {lost} again gave no finite loss.")
        before: Outcome | None = None
        for again in passage.epochs:
            starts_same = again["epoch"] == passage.first or before is Outcome.IDENTICAL
            outcome, problem = compared(run, again, len(evidence.results.classes), starts_same)
            before = outcome
            if outcome is Outcome.OTHER and run.is_untold and not is_here(evidence):
                outcome, problem = Outcome.UNCLEAR, ""
            if outcome is Outcome.CLOSE and is_here(evidence):
                outcome = Outcome.UNCLEAR  # bit for bit, or it was trained elsewhere
            if has_same_bits(run, again):
                problem = problem or _device_problem(evidence)
            counts[outcome] += 1
            item.extend([f"{run.name}, epoch {again['epoch']}: {problem}"] if problem else [])
    return problems, counts


def _device_problem(evidence: Evidence) -> str:
    """What is wrong with weights that training again gave bit for bit."""
    here = ((evidence.replay and evidence.replay.environment) or {}).get("device")
    there = evidence.results.device
    if here is None or here == there:
        return ""
    return (
        f"the results name the device {there}, but training again on {here} gives the recorded weights bit "
        "for bit, which the sums of another kind of device never do."
    )


def _unclear_here(evidence: Evidence) -> str:
    """What an inconclusive replay calls for, on this machine."""
    if is_here(evidence):
        is_known = "vector_instructions" in evidence.results.environment
        unless = "" if is_known else " unless the vector instructions differ"
        return (
            "The run names this kind of processor, these libraries and as many threads, with which an honest "
            f"replay is bit-identical{unless}: ask where it was trained."
        )
    return "The kind of machine, number of threads and libraries of the run would settle it."


def is_here(evidence: Evidence) -> bool:
    """Whether the results name this kind of processor, these libraries and this precision."""
    found = evidence.replay
    if found is None or found.precision != evidence.results.precision:
        return False
    there = evidence.results.environment
    return there["device"] == "cpu" and not differing(there, found.environment or {}, SAME_RESULT)


def same_bits_anywhere(evidence: Evidence) -> bool:
    """Whether an epoch that was trained again has the recorded weights, as the same instructions round.

    One is enough: whoever changes the recorded hash of another epoch, or a figure of this one, gains nothing.
    """
    return evidence.replay is not None and any(
        has_same_bits(recorded(evidence.results, passage), again)
        for passage in evidence.replay.passages
        for again in passage.epochs
    )


def _start_problems(evidence: Evidence, run: Recorded, passage: Passage) -> Iterator[str]:
    here = (evidence.replay and evidence.replay.environment) or {}
    same_platform = not differing(evidence.results.environment, here, (*SAME_START, "platform", "torch"))
    if passage.first == 1 and same_platform and passage.initial_sha256 != run.initial_sha256:
        yield f"{run.name}: seed and weights give another start than the recorded one."
