"""Runs that were interrupted, or are still training: what they are, and how to finish them."""

import os

from grader.errors import UnusableError
from grader.reading.strict_json import short
from grader.submission.load import CONFIG_NAME, Submission, resume_hint

STATE_NAME = "state"
"""The folder of resume points, which `finetune train` removes once all runs have ended."""


def require_finished(submission: Submission) -> None:
    """Refuse a run that lacks some of its variants and seeds but can go on: it can still be completed.

    One that lacks them without being able to go on is judged as it is.

    Raises:
        UnusableError: the run is unfinished.
    """
    results, folder = submission.results, submission.folder
    wanted = {(variant.name, seed) for variant in results.variants for seed in results.seeds}
    missing = wanted - {(run.variant, run.seed) for run in results.runs}
    has_state = os.path.isdir(folder / STATE_NAME) and os.path.isfile(folder / CONFIG_NAME)  # noqa: PTH112, PTH113
    if missing and has_state:
        n_ended = len(wanted) - len(missing)
        raise UnusableError(
            [
                f"{short(folder, '', 200)} is a run that was interrupted or is still training: {n_ended} of "
                f"{len(wanted)} trainings have ended; {resume_hint(folder)}"
            ]
        )


def is_told_how_to_finish(problem: str) -> bool:
    """Whether a problem is that of an unfinished run, which says itself what to do."""
    return "finish it with `finetune train --resume" in problem
