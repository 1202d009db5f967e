"""The files of a submission that are graded, with their digests."""

import hashlib
from collections.abc import Mapping

from grader.errors import UnusableError
from grader.reading.files import below, is_there, open_regular
from grader.submission.load import RESULTS_NAME, Submission

BLOCK = 1024 * 1024


def manifest(submission: Submission) -> dict[str, str]:
    """SHA-256 of the results file and of each file that it names, by path; missing files are left out.

    Raises:
        UnusableError: A file cannot be read safely.
    """
    names = {RESULTS_NAME}
    for run in submission.results.runs:
        files = run.artifacts
        found = (files.val_predictions, files.test_predictions, files.checkpoint) if files else ()
        names |= {artifact.path for artifact in (*found, *run.states)}
    digests = {}
    for name in sorted(names):
        path = submission.file if name == RESULTS_NAME else below(submission.folder, name, name)
        if is_there(path, name):
            digest = hashlib.sha256()
            with open(open_regular(path, name, follow=name == RESULTS_NAME), "rb") as file:  # noqa: PTH123 - a handle
                while block := file.read(BLOCK):
                    digest.update(block)
            digests[name] = digest.hexdigest()
    if RESULTS_NAME not in digests:
        raise UnusableError([f"{RESULTS_NAME} is missing."])
    return digests


def digest_of(digests: Mapping[str, str]) -> str:
    """The digest of a whole submission: SHA-256 of the lines that `sha256sum` prints, sorted by path."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
