"""Accuracy and training time against depth: the rows that train ever more layers, one below the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup

from finetune.report.figures import percent
from finetune.report.judged import JudgedRun, VariantRow
from finetune.report.plot import Axis, Panel, linear_axis
from grader.checks.ladder import FEWEST_ROWS, ladder
from grader.findings import Status
from grader.grading.sentences import P_OF_ROW

TOP, ROW, BELOW = 44, 34, 40
"""Pixels above the first row, from one row to the next, and below the last."""


def ladder_rows(run: JudgedRun) -> list[VariantRow]:
    """The rows of the depth ladder, fewest trained layers first; empty if there are fewer than three."""
    rows = [row for variant in ladder(run.evidence) if (row := run.row(variant.name)) is not None]
    return rows if len(rows) >= FEWEST_ROWS else []


def sufficient(run: JudgedRun) -> str | None:
    """The row with the fewest layers that is shown to suffice, by the grader's finding."""
    finding = run.grade.findings["smallest-sufficient"]
    alpha = (1 - run.confidence) / 2
    shown = [name.removesuffix(P_OF_ROW) for name, p in finding.numbers.items() if p < alpha]
    return shown[0] if finding.status is Status.HOLDS else None


def depth(run: JudgedRun, rows: Sequence[VariantRow]) -> list[Markup]:
    """Two panels with the same rows: test accuracy with its interval, and training time.

    Args:
        run: of the rows.
        rows: from `ladder_rows`; the more layers, the lower down.
    """
    enough = sufficient(run)
    accuracies = [(row.accuracy("test"), *row.limits("test", run.confidence)) for row in rows]
    seconds = [(row.train_seconds,) for row in rows]
    shares = linear_axis([value for values in accuracies for value in values], percent)
    times = linear_axis([0.0, *(value for (value,) in seconds)], "{:,.6g}".format)
    return [
        _panel("Test accuracy", "", shares, rows, accuracies, "{:.1%}".format, enough),
        _panel("Training time", "seconds", times, rows, seconds, "{:,.3g} s".format),
    ]


def _panel(
    title: str,
    unit: str,
    x: Axis,
    rows: Sequence[VariantRow],
    values: Sequence[tuple[float, ...]],
    show: Callable[[float], str],
    enough: str | None = None,
) -> Markup:
    """The rows one below the other: a value of each, and its limits if it has any; one may be ringed."""
    told = ", ".join(f"{row.name} {show(found[0])}" for row, found in zip(rows, values, strict=True))
    label = f"{title} by the layers that are trained, fewest first: {told}."
    panel = Panel(x, Axis(0.0, 1.0, ()), label, title, unit, TOP + ROW * len(rows) + BELOW)
    middles = [(panel.at(found[0], 0.0)[0], TOP + ROW * n + 12.0) for n, found in enumerate(values)]
    for row, found, (left, top) in zip(rows, values, middles, strict=True):
        is_enough = row.name == enough
        panel.text(f"{row.name} suffices" if is_enough else row.name, 46, top - 12, "name")
        panel.text(show(found[0]), 330, top - 12, "tick end")
        if len(found) > 1:
            low, high = (panel.at(limit, 0.0)[0] for limit in found[1:])
            panel.add("line", f"bar {panel.style(row.index)}", x1=low, x2=high, y1=top, y2=top)
        panel.mark(left, top, row.index, f"{row.name}: {show(found[0])}")
        if is_enough:
            panel.add("circle", f"ring {panel.style(row.index)}", cx=left, cy=top, r=7.5)
    return panel.markup()
