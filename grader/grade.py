"""One path -> one grade; nothing a submission contains raises from here."""

from dataclasses import dataclass
from pathlib import Path

from grader.checks import judge
from grader.errors import UnusableError
from grader.evidence import Evidence, gather
from grader.findings import Level
from grader.load import RESULTS_NAME, load
from grader.policy import Policy
from grader.verdict import Grade


@dataclass(frozen=True)
class Job:
    """What to grade, and how.

    Attributes:
        path: A run folder or its results file.
        name: How the submission is called.
        policy: The rule set.
    """

    path: Path
    name: str
    policy: Policy


def grade(job: Job) -> Grade:
    """Grade one submission.

    Returns:
        Its grade; an unusable submission's lists the problems.
    """
    try:
        submission = load(job.path)
        evidence = gather(submission, job.policy.thresholds)
        findings = judge(evidence)
    except UnusableError as error:
        return Grade(job.name, job.policy, {}, problems=error.problems)
    return Grade(
        job.name, job.policy, findings, levels=reached(evidence), created_at=submission.results.created_at
    )


def reached(evidence: Evidence) -> tuple[Level, ...]:
    """The levels of evidence that every chosen run was judged on."""
    levels = [Level.FILE]
    complete = {(run.name, split) for run in evidence.chosen for split in ("val", "test")}
    if complete and complete <= evidence.predictions.keys():
        levels.append(Level.PREDICTIONS)
    return tuple(levels)


def run_name(path: Path) -> str:
    """How a submission is called: its folder's name."""
    folder = path.parent if path.name == RESULTS_NAME else path
    return folder.name or folder.resolve().name or "run"
