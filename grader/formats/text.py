"""For a terminal."""

import io
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from grader.errors import listed
from grader.findings import Status
from grader.formats.clean import clean
from grader.verdict import Grade

COLOURS = {
    Status.HOLDS: "green", Status.FAILS: "bold red", Status.NOT_SEPARABLE: "yellow", Status.NOT_CHECKED: "dim"
}  # fmt: skip


def to_text(grade: Grade) -> str:
    """A line for each property, then the verdict; no colours and lines as long as they come."""
    return _plain(lambda console: print_grade(grade, console))


def to_table(grades: Sequence[Grade]) -> str:
    """A line for each run, in the same way."""
    return _plain(lambda console: print_table(grades, console))


def print_table(grades: Sequence[Grade], console: Console) -> None:
    """Write one line for each of several grades."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("run", "result", "points", "levels", "what fails"):
        table.add_column(heading)
    for grade in grades:
        result = "unusable" if grade.problems else "passed" if grade.passed else "failed"
        failing = [name for name in grade.policy.weights if grade.findings and not grade.passes(name)]
        if not grade.problems and not grade.level_is_reached:
            failing.append(f"evidence level {grade.policy.required_level}")
        table.add_row(
            Text(clean(grade.run)),
            Text(result, "green" if grade.passed else "bold red"),
            f"{grade.score:g} of {grade.max_score:g}",
            ", ".join(str(int(level)) for level in grade.levels),
            Text(clean(grade.problems[0]) if grade.problems else ", ".join(failing)),
        )
    console.print(table)
    n_passed = sum(grade.passed for grade in grades)
    console.print(f"{n_passed} of {len(grades)} runs pass under policy {grades[0].policy.name}.")


def _plain(printing: Callable[[Console], None]) -> str:
    file = io.StringIO()
    printing(Console(file=file, width=10_000, color_system=None, legacy_windows=False))
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())


def print_grade(grade: Grade, console: Console) -> None:
    """Write a grade to a console, which knows about colours and width."""
    console.print(Text(clean(grade.run), "bold"))
    for problem in listed(grade.problems):
        console.print(Text(clean(problem), "red"))
    if grade.findings:
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        for name, finding in grade.findings.items():
            mark = "" if grade.counts(name) else " (for information)"
            table.add_row(
                Text(finding.status, COLOURS[finding.status]),
                Text(name),
                Text(str(int(finding.level)), "dim"),
                Text(clean(finding.summary + mark)),
            )
            for detail in finding.details[:10]:
                table.add_row("", "", "", Text(clean(detail), "dim"))
            if len(finding.details) > 10:
                table.add_row("", "", "", Text(f"... and {len(finding.details) - 10} more", "dim"))
        console.print(table)
    console.print()
    for sentence in grade.sentences:
        console.print(Text(sentence))
    console.print(Text(closing(grade)))


def closing(grade: Grade) -> str:
    """The last line: passed or not, under which policy, on which evidence."""
    if grade.problems:
        return f"Unusable: {len(grade.problems)} problem{'s' if len(grade.problems) > 1 else ''}."
    reached = ", ".join(f"{int(level)} ({level.noun})" for level in grade.levels)
    passed = sum(grade.passes(name) for name in grade.policy.weights)
    line = f"{passed} of {len(grade.policy.weights)} counting properties pass. Evidence: level {reached}."
    if not grade.level_is_reached:
        line += f" The policy requires level {grade.policy.required_level}."
    policy = f"policy {grade.policy.name} v{grade.policy.version}"
    return f"{'PASSED' if grade.passed else 'FAILED'} under {policy}: {line}"
