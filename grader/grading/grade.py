"""From a path to a grade; no submission makes this raise."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from grader.checks import judge
from grader.errors import UnusableError
from grader.evidence.fitting import require_fit
from grader.evidence.gathered import Evidence, gather
from grader.evidence.seeds import Prescription
from grader.evidence.traces import traces_of
from grader.findings import Finding, Level, Status
from grader.grading.policy import Policy
from grader.grading.sentences import scope_of
from grader.grading.verdict import Grade
from grader.isolated.replay import Request, replay
from grader.isolated.rerun import rerun
from grader.reading.truth import Truth
from grader.submission.checkpoints import read_checkpoints
from grader.submission.load import Submission, load
from grader.submission.manifest import manifest
from grader.submission.opened import opened
from grader.submission.record import SPLITS
from grader.submission.unfinished import require_finished


@dataclass(frozen=True)
class Job:
    """What to grade, and how.

    Attributes:
        path: A run folder or its results file, or a folder or zip file that contains a run folder.
        name: Name of the submission.
        policy: The policy.
        truth: The true labels and splits, if given.
        rerun: Whether to recompute the predictions from the checkpoints.
        replay: Which epochs to train again; None if none.
        dataset: The data set, for `rerun`; None means the recorded one.
        data_root: Folder that contains downloaded data sets, for `rerun`.
        prescription: The seed that the course prescribes, if it does.
        is_compared: Whether the grade keeps the traces of the runs, to compare them with others.
        is_attested: Whether the grade keeps the digests of the submission's files.
    """

    path: Path
    name: str
    policy: Policy
    truth: Truth | None = None
    rerun: bool = False
    dataset: str | None = None
    data_root: Path | None = None
    replay: Request | None = None
    prescription: Prescription | None = None
    is_compared: bool = False
    is_attested: bool = False


def grade(job: Job) -> Grade:
    """Grade one submission.

    Returns:
        Its grade, which lists the problems if the submission is unusable.
    """
    try:
        with opened(job.path) as (path, shown):
            return _grade(job, path, shown)
    except UnusableError as error:
        return Grade(job.name, job.policy, {}, problems=error.problems)


def _grade(job: Job, path: Path, shown: str) -> Grade:
    """Grade a run folder or results file.

    One that cannot be used although its results file is valid leaves the traces of that file, so that
    damaging a run does not hide whose it was.

    Raises:
        UnusableError: It cannot be read.
    """
    submission = load(path, shown)
    try:
        return _of_submission(job, submission, shown)
    except UnusableError as error:
        traces = traces_of(Evidence(submission.results)) if job.is_compared else None
        return Grade(job.name, job.policy, {}, problems=error.problems, traces=traces)


def _of_submission(job: Job, submission: Submission, shown: str) -> Grade:
    """Grade a submission whose results file is valid.

    Raises:
        UnusableError: The rest cannot be used, or changed meanwhile.
    """
    require_finished(submission)
    digests = manifest(submission) if job.is_attested else {}
    truth = job.truth and job.truth.among(submission.results.classes)
    evidence = gather(submission, job.policy.thresholds, truth)
    if truth is not None:
        require_fit(evidence, truth)
    evidence = replace(evidence, checkpoints=read_checkpoints(submission), prescription=job.prescription)
    if job.rerun:
        outcome = rerun(submission, job.dataset, job.data_root)
        evidence = replace(evidence, rerun=outcome, truth=truth or outcome.truth)
    if job.replay:
        evidence = replace(evidence, replay=replay(submission, job.replay, job.dataset, job.data_root))
    requested = {
        Level.TRUTH: job.truth or job.dataset,
        Level.CHECKPOINTS: job.rerun,
        Level.REPLAY: job.replay,
    }
    found = graded(evidence, job.name, job.policy, {level for level, asked in requested.items() if asked})
    if digests and manifest(submission) != digests:
        raise UnusableError([f"{shown} changed while it was graded; grade it again."])
    return replace(found, digests=digests, traces=traces_of(evidence) if job.is_compared else None)


def graded(evidence: Evidence, name: str, policy: Policy, requested: Iterable[Level] = ()) -> Grade:
    """Judge the evidence on a submission; `finetune` shows its own runs' verdicts by it.

    Args:
        evidence: On one submission, gathered with the policy's thresholds.
        name: Name of the submission.
        policy: The policy.
        requested: Levels of evidence that are required whatever the policy.
    """
    findings = judge(evidence)
    standing = _standing(evidence, findings)
    return Grade(
        name,
        policy,
        findings,
        levels=tuple(level for level, status in standing.items() if status is Status.HOLDS),
        unsettled_levels=tuple(level for level, status in standing.items() if status is Status.INCONCLUSIVE),
        refuted_levels=tuple(level for level, status in standing.items() if status is Status.FAILS),
        created_at=evidence.results.created_at,
        scope=scope_of(evidence, findings),
        requested=frozenset(requested),
    )


def grade_safely(job: Job) -> Grade:
    """Like `grade`, but a bug in the grader costs only the submission that triggers it its grade."""
    try:
        return grade(job)
    except Exception as error:
        return crashed(job, error)


def crashed(job: Job, error: BaseException) -> Grade:
    """The grade of a submission on which the grader itself failed."""
    problem = f"internal error ({type(error).__name__}) while grading {job.name}; please report this run."
    return Grade(job.name, job.policy, {}, problems=(problem,))


DECIDES = {
    Level.TRUTH: ("true-labels", "true-splits"),
    Level.CHECKPOINTS: ("rerun-agrees",),
    Level.REPLAY: ("replay-agrees",),
}
"""The properties in which the evidence of a level agrees with the submission, or does not."""


MAY_REFUTE = {Level.REPLAY: "times-replayed"}
"""Properties whose failure refutes a level, but without which it can be reached."""


def _standing(evidence: Evidence, findings: dict[str, Finding]) -> dict[Level, Status]:
    """How the evidence of each level that was there stands; it must cover all predictions of all runs.

    A level holds if its evidence agreed with the submission; it may be inconclusive, or fail.
    """
    required = {(run.name, split) for run in evidence.chosen for split in SPLITS}
    if not required or not required <= evidence.predictions.keys():
        return {Level.FILE: Status.HOLDS}
    was_there = {
        Level.TRUTH: findings["true-labels"].status is not Status.NOT_CHECKED,
        Level.CHECKPOINTS: evidence.rerun is not None and required <= evidence.rerun.predictions.keys(),
        Level.REPLAY: evidence.replay is not None and not evidence.replay.failure,
    }
    found = {Level.FILE: Status.HOLDS, Level.PREDICTIONS: Status.HOLDS}
    for level in (level for level, there in was_there.items() if there):
        statuses = [findings[name].status for name in DECIDES[level]]
        if all(status is Status.NOT_CHECKED for status in statuses):
            statuses.append(Status.INCONCLUSIVE)
        if level in MAY_REFUTE and findings[MAY_REFUTE[level]].status is Status.FAILS:
            statuses.append(Status.FAILS)
        if Status.FAILS in found.values():  # evidence beyond what refutes the submission saves nothing
            statuses.append(Status.FAILS)
        found[level] = next((s for s in (Status.FAILS, Status.INCONCLUSIVE) if s in statuses), Status.HOLDS)
    return found
