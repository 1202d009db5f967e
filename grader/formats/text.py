"""Write grades as text, for a terminal."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from grader.errors import listed
from grader.findings import Status, counted
from grader.formats.clean import clean
from grader.verdict import Grade

if TYPE_CHECKING:  # imported only for a terminal
    from rich.console import Console

DETAILS_SHOWN = 10
HEADINGS = ("run", "result", "points", "levels", "failures")
COLORS: dict[str, str] = {
    Status.HOLDS: "green", Status.FAILS: "bold red", Status.INCONCLUSIVE: "yellow", Status.NOT_CHECKED: "dim"
}  # fmt: skip


Row = tuple[str, ...]


def to_text(grade: Grade) -> str:
    """One line per property, then the verdict, without colors or line wrapping."""
    first = [clean(text) for text in (grade.run, *listed(grade.problems), *grade.objections)]
    lines = [*first, *_aligned(_rows(grade)), "", *map(clean, grade.verdict), closing(grade)]
    return "".join(f"{line}\n" for line in lines)


def to_table(grades: Sequence[Grade]) -> str:
    """One line per grade, without colors or line wrapping."""
    lines = [*_aligned([HEADINGS, *map(_row, grades)]), _count(grades)]
    return "".join(f"{line}\n" for line in lines)


def print_grade(grade: Grade, console: "Console") -> None:
    """Print a grade to a terminal, with colors and wrapped to its width."""
    from rich.table import Table
    from rich.text import Text

    console.print(Text(clean(grade.run), "bold"))
    for problem in (*listed(grade.problems), *grade.objections):
        console.print(Text(clean(problem), "red"))
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for status, *cells in _rows(grade):
        table.add_row(Text(status, COLORS.get(status, "")), *map(Text, cells))
    console.print(table)
    for sentence in ("", *map(clean, grade.verdict), closing(grade)):
        console.print(Text(sentence))


def print_table(grades: Sequence[Grade], console: "Console") -> None:
    """Print one line per grade to a terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table(*HEADINGS, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for grade in grades:
        run, result, *cells = _row(grade)
        table.add_row(Text(run), Text(result, "green" if grade.passed else "bold red"), *map(Text, cells))
    console.print(table)
    console.print(_count(grades))


def _rows(grade: Grade) -> list[Row]:
    """Status, property, level and summary of each finding, with details on separate rows."""
    rows: list[Row] = []
    for name, finding in grade.findings.items():
        mark = "" if grade.counts(name) or name in grade.failing else " (not counted)"
        rows.append((finding.status, name, str(int(finding.level)), clean(finding.summary + mark)))
        rows += [("", "", "", clean(detail)) for detail in finding.details[:DETAILS_SHOWN]]
        if len(finding.details) > DETAILS_SHOWN:
            rows.append(("", "", "", f"... and {len(finding.details) - DETAILS_SHOWN:,} more"))
    return rows


def _row(grade: Grade) -> Row:
    result = "unusable" if grade.problems else "passed" if grade.passed else "failed"
    failing = [*grade.failing, *(f"evidence level {level}" for level in grade.missing)]
    return (
        clean(grade.run),
        result,
        f"{grade.score:g} of {grade.max_score:g}",
        ", ".join(str(int(level)) for level in grade.levels),
        clean(grade.problems[0]) if grade.problems else ", ".join(failing),
    )


def _aligned(rows: Sequence[Row]) -> list[str]:
    """Pad all columns but the last to equal width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths[:-1], 0], strict=True)).rstrip()
        for row in rows
    ]


def _count(grades: Sequence[Grade]) -> str:
    n_passed = sum(grade.passed for grade in grades)
    return f"{n_passed} of {counted(len(grades), 'run')} passed under policy {grades[0].policy.name}."


def closing(grade: Grade) -> str:
    """The last line: whether the run passed, under which policy and on what evidence."""
    if grade.problems:
        return f"Unusable: {counted(len(grade.problems), 'problem')}."
    policy, statuses = grade.policy, Counter(grade.findings[name].status for name in grade.policy.weights)
    others = [f", {statuses[s]} {s.removesuffix('s')}" for s in list(Status)[1:] if statuses[s]]
    reached = ", ".join(f"{int(level)} ({level.description})" for level in grade.levels)
    why = f" because {'evidence is missing' if grade.missing else 'a claim is refuted'}"
    return (
        f"{'PASSED' if grade.passed else 'FAILED'} under policy {policy.name} v{policy.version}: "
        f"{statuses[Status.HOLDS]} of {len(policy.weights)} counted properties hold{''.join(others)}; "
        f"{grade.score:g} of {grade.max_score:g} points{why if grade.is_void else ''}. "
        f"Evidence levels: {reached}."
    )
