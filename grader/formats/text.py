"""Write grades as text, for a terminal."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from grader.errors import listed
from grader.findings import Status, counted
from grader.formats.clean import clean
from grader.grading.verdict import Grade

if TYPE_CHECKING:  # imported only for a terminal
    from rich.console import Console

DETAILS_SHOWN = 10
HEADINGS = ("run", "result", "points", "levels", "failures")
COLORS: dict[str, str] = {
    Status.HOLDS: "green", Status.FAILS: "bold red", Status.INCONCLUSIVE: "yellow", Status.NOT_CHECKED: "dim"
}  # fmt: skip


Row = tuple[str, ...]


def to_text(grade: Grade) -> str:
    """The verdict, then what does not hold, then a count of the rest; without colors or line wrapping."""
    return _text(grade, _open(grade))


def to_verbose_text(grade: Grade) -> str:
    """The verdict, then every property."""
    return _text(grade, grade.findings)


def _text(grade: Grade, names: Iterable[str]) -> str:
    names = list(names)
    lines = [*_head(grade), *_aligned(_rows(grade, names)), *_rest(grade, names)]
    return "".join(f"{line}\n" for line in lines)


def to_table(grades: Sequence[Grade]) -> str:
    """One line per grade, without colors or line wrapping."""
    lines = [*_aligned([HEADINGS, *map(_row, grades)]), _count(grades)]
    return "".join(f"{line}\n" for line in lines)


def print_grade(grade: Grade, console: "Console", verbose: bool = False) -> None:
    """Print a grade to a terminal, with colors and wrapped to its width."""
    from rich.table import Table
    from rich.text import Text

    names = list(grade.findings if verbose else _open(grade))
    run, result, *sentences = _head(grade)
    console.print(Text(run, "bold"))
    console.print(Text(result, "bold green" if grade.passed else "bold red"))
    n_red = len(listed(grade.problems)) + len(grade.objections)
    for number, sentence in enumerate(sentences):
        console.print(Text(sentence, "red" if number < n_red else ""))
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for status, *cells in _rows(grade, names):
        table.add_row(Text(status, COLORS.get(status, "")), *map(Text, cells))
    if names:
        console.print(table)
    for line in _rest(grade, names):
        console.print(Text(line))


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


def _head(grade: Grade) -> list[str]:
    """The run, the result, and the verdict; a blank line if properties follow."""
    sentences = [*listed(grade.problems), *grade.sentences]
    end = [""] if grade.findings else []
    return [grade.id, closing(grade), *map(clean, sentences), *end]


def _open(grade: Grade) -> list[str]:
    """Properties that do not hold although they were checked, and those that fail the submission."""
    shown = {finding.name for finding in grade.unsettled} | set(grade.failing)
    return [name for name in grade.findings if name in shown]


def _rest(grade: Grade, shown: Sequence[str]) -> list[str]:
    """How many properties are not listed."""
    counts = Counter(finding.status for name, finding in grade.findings.items() if name not in set(shown))
    if not counts:
        return []
    n_hold, n_open = counts[Status.HOLDS], counts[Status.NOT_CHECKED]
    parts = [f"{n_hold} {'property holds' if n_hold == 1 else 'properties hold'}"] if n_hold else []
    parts += [f"{n_open} could not be checked"] if n_open else []
    return [f"{' and '.join(parts)}; --verbose lists them."]


def _rows(grade: Grade, names: Iterable[str]) -> list[Row]:
    """Status, property, level and summary of each finding, with details on separate rows."""
    rows: list[Row] = []
    for name in names:
        finding = grade.findings[name]
        mark = "" if grade.counts(name) or name in grade.failing else " (not counted)"
        rows.append((finding.status, name, str(int(finding.level)), clean(finding.summary + mark)))
        rows += [("", "", "", clean(detail)) for detail in finding.details[:DETAILS_SHOWN]]
        if len(finding.details) > DETAILS_SHOWN:
            # Without a number: of many problems the finding itself lists only the first.
            rows.append(("", "", "", "...; --format json lists more."))
    return rows


def _row(grade: Grade) -> Row:
    result = "unusable" if grade.problems else "passed" if grade.passed else "failed"
    return (
        grade.id,
        result,
        f"{grade.score:g} of {grade.max_score:g}",
        _levels(grade),
        clean(grade.problems[0]) if grade.problems else ", ".join(grade.causes),
    )


def _levels(grade: Grade) -> str:
    """The levels reached, and those that are inconclusive, by number."""
    reached = ", ".join(str(int(level)) for level in grade.levels)
    above = ", ".join(str(int(level)) for level in grade.unsettled_levels)
    return f"{reached} ({above} inconclusive)" if above else reached


def _aligned(rows: Sequence[Row]) -> list[str]:
    """Pad all columns but the last to equal width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)] if rows else []
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths[:-1], 0], strict=True)).rstrip()
        for row in rows
    ]


def _count(grades: Sequence[Grade]) -> str:
    n_passed = sum(grade.passed for grade in grades)
    return f"{n_passed} of {counted(len(grades), 'run')} passed under policy {grades[0].policy.name}."


def closing(grade: Grade) -> str:
    """Whether the run passed, under which policy, what held, on what evidence, and what is inconclusive."""
    if grade.problems:
        return f"Unusable: {counted(len(grade.problems), 'problem')}."
    policy, statuses = grade.policy, Counter(grade.findings[name].status for name in grade.policy.weights)
    words = {
        Status.FAILS: "fails" if statuses[Status.FAILS] == 1 else "fail",
        Status.INCONCLUSIVE: "undecided",
        Status.NOT_CHECKED: "not checked",
    }
    others = [f", {statuses[status]} {word}" for status, word in words.items() if statuses[status]]
    reached = ", ".join(f"{int(level)} ({level.description})" for level in grade.levels)
    open_levels = [
        f"; level {int(level)} ({level.description}) inconclusive" for level in grade.unsettled_levels
    ]
    cause = "nothing trained" if grade.nothing_trained else "a claim is refuted"
    why = f" because {'evidence is missing' if grade.missing else cause}"
    return (
        f"{'PASSED' if grade.passed else 'FAILED'} under policy {policy.name} v{policy.version}: "
        f"of {len(policy.weights)} counted properties, {statuses[Status.HOLDS]} hold{''.join(others)}; "
        f"{grade.score:g} of {grade.max_score:g} points{why if grade.is_void else ''}. "
        f"Evidence levels: {reached}{''.join(open_levels)}."
    )
