"""The files of a whole class, written once all submissions are compared; and signed grades."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from grader.cohort import grades_csv, summary
from grader.cohort.cohort import Cohort
from grader.findings import counted
from grader.formats.output import DEFAULT_FOLDER, Target, folder_of, write_file

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner


def write_class(cohort: Cohort, wanted: Sequence[Target], signer: "CryptoSigner | None") -> list[str]:
    """Write the table and the page of a class, if its grades go to a folder, and sign each grade, if asked.

    Returns:
        Notes for the instructor: where the files are, and what there is none of.

    Raises:
        UsageError: A file cannot be written.
    """
    folder, notes = folder_of(wanted), []
    n_runs = len(cohort.grades)
    if n_runs > 1 and folder is not None:
        write_file(folder / grades_csv.NAME, grades_csv.to_csv(cohort))
        write_file(folder / summary.NAME, summary.to_html(cohort))
    elif n_runs > 1:
        notes.append(
            f"--output FOLDER writes {grades_csv.NAME}, {summary.NAME} and a file for each submission."
        )
    if signer is not None:
        folder = folder or DEFAULT_FOLDER
        notes += _sign(cohort, folder, signer)
    if folder == DEFAULT_FOLDER:
        notes.append(f"Written to {folder}/.")
    return notes


def _sign(cohort: Cohort, folder: Path, signer: "CryptoSigner") -> list[str]:
    from grader.signing.attest import EXTENSION, attestation

    unread = 0
    for grade in cohort.grades:
        if grade.digests:
            write_file(folder / f"{grade.run}.{EXTENSION}", attestation(grade, signer))
        else:
            unread += 1
    return [f"Not signed, because unusable: {counted(unread, 'submission')}."] if unread else []
