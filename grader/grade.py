"""One path -> one grade; nothing that a submission contains raises from here."""

from dataclasses import dataclass, replace
from pathlib import Path

from grader.checks import judge
from grader.errors import UnusableError
from grader.evidence import Evidence, gather
from grader.findings import Finding, Level, Status
from grader.load import load
from grader.policy import Policy
from grader.rerun import rerun
from grader.truth import Truth
from grader.verdict import Grade


@dataclass(frozen=True)
class Job:
    """What to grade, and how.

    Attributes:
        path: A run folder or its results file.
        name: How the submission is called.
        policy: The rule set.
        truth: True labels and splits, when given.
        rerun: Whether to make predictions afresh from the checkpoints.
        data_root: Where the images are, for `rerun`.
    """

    path: Path
    name: str
    policy: Policy
    truth: Truth | None = None
    rerun: bool = False
    data_root: Path | None = None


def grade(job: Job) -> Grade:
    """Grade one submission.

    Returns:
        Its grade; an unusable submission's lists the problems.
    """
    try:
        submission = load(job.path)
        evidence = gather(submission, job.policy.thresholds, job.truth)
        if job.rerun:
            evidence = replace(evidence, rerun=rerun(submission, job.data_root))
        findings = judge(evidence)
    except UnusableError as error:
        return Grade(job.name, job.policy, {}, problems=error.problems)
    return Grade(
        job.name,
        job.policy,
        findings,
        levels=_reached(evidence, findings),
        created_at=submission.results.created_at,
    )


def grade_safely(job: Job) -> Grade:
    """`grade`, but a defect of the grader itself becomes a problem of this one grade.

    One submission that finds a defect must not cost twenty-nine others their grade.
    """
    try:
        return grade(job)
    except Exception as error:
        return crashed(job, error)


def crashed(job: Job, error: BaseException) -> Grade:
    """The grade of a submission on which the grader itself failed."""
    problem = f"internal error ({type(error).__name__}) while grading {job.name}; please report this run."
    return Grade(job.name, job.policy, {}, problems=(problem,))


def _reached(evidence: Evidence, findings: dict[str, Finding]) -> tuple[Level, ...]:
    """The levels of evidence that every chosen run was judged on."""
    every = {(run.name, split) for run in evidence.chosen for split in ("val", "test")}
    is_reached = {
        Level.FILE: True,
        Level.PREDICTIONS: bool(every) and every <= evidence.predictions.keys(),
        Level.TRUTH: findings["true-labels"].status is not Status.NOT_CHECKED,
        Level.CHECKPOINTS: findings["rerun-agrees"].status is not Status.NOT_CHECKED,
    }
    return tuple(level for level in Level if is_reached[level])
