"""Write the grades of a class as a table for a spreadsheet."""

import csv
import io

from grader.checks import PROPERTIES
from grader.cohort.cohort import Cohort
from grader.formats.clean import clean
from grader.grading.verdict import Grade

NAME = "grades.csv"
COLUMNS = ("id", "score", "max_score", "passed", "level", "inconclusive_levels", "why", "flags")
_FORMULA = ("=", "+", "-", "@")


def to_csv(cohort: Cohort) -> str:
    """One row per submission: points, result, level, what fails it, flags, each property's status.

    The level is the highest that was reached; those that are inconclusive have a column of
    their own. The status is empty if the submission is unusable.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*COLUMNS, *PROPERTIES))
    for grade in cohort.grades:
        statuses = [grade.findings[name].status if grade.findings else "" for name in PROPERTIES]
        cells = (
            grade.id,
            f"{grade.score:g}",
            f"{grade.max_score:g}",
            "yes" if grade.passed else "no",
            max(map(int, grade.levels), default=""),
            ", ".join(str(int(level)) for level in grade.unsettled_levels),
            why(grade),
            "; ".join(cohort.flags(grade.run)),
            *statuses,
        )
        writer.writerow([_cell(str(cell)) for cell in cells])
    return text.getvalue()


def why(grade: Grade) -> str:
    """What fails a submission: its first problem, or the properties and levels."""
    if grade.problems:
        return f"unusable: {grade.problems[0]}"
    return ", ".join(grade.causes)


def _cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula: an apostrophe marks it as text, as OWASP recommends."""
    text = clean(text)
    return f"'{text}" if text.startswith(_FORMULA) else text
