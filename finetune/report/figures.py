"""The figures of the report: each a list of panels, every one with a text that says what it shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from statistics import fmean
from typing import Any

from markupsafe import Markup

from finetune.report.judged import JudgedRun, VariantRow
from finetune.report.plot import Axis, Panel, Point, epoch_axis, linear_axis, log_axis, loss_axis
from finetune.report.settings import SPLITS
from grader.checks.compare import Comparison, compare, pairs_of
from grader.findings import in_points, limits_in_points, rate_text
from grader.statistics.proportions import Interval
from grader.submission.parts import Metrics
from grader.submission.trials import label

MOST_MARKERS = 12
"""On one line; more would hide it."""

Measure = Callable[[Metrics], float]
ACCURACY: Measure = attrgetter("accuracy")
LOSS: Measure = attrgetter("loss")


def percent(share: float) -> str:
    """A share as a percentage without needless digits, for ticks."""
    return f"{100 * share:.3g}%"


def curves(rows: Sequence[VariantRow], name: str) -> dict[str, list[Markup]]:
    """Accuracy and loss by epoch on the three splits, all variants in each panel.

    Of several seeds: the mean as a line, the range as a band, and each seed's chosen epoch as a ring.

    Args:
        rows: the variants.
        name: of the data set.

    Returns:
        Three panels under "Accuracy" and three under "Loss", those of a measure with the same y axis.
    """
    epochs = [epoch for row in rows for run in row.runs for epoch in run.epochs]
    panels: dict[str, list[Markup]] = {}
    for title, measure in (("Accuracy", ACCURACY), ("Loss", LOSS)):
        values = [measure(epoch.on(split)) for epoch in epochs for split in SPLITS]
        y = linear_axis(values, percent) if measure is ACCURACY else loss_axis(values)
        panels[title] = []
        for split, words in SPLITS.items():
            told = f"{title} on the {words} images of {name} by epoch. {_ends(rows, split, measure)}"
            panel = Panel(epoch_axis(max(e.epoch for e in epochs)), y, told, words.capitalize(), "epoch")
            for row in rows:
                _curve(panel, row, split, measure)
            panels[title].append(panel.markup())
    return panels


def _curve(panel: Panel, row: VariantRow, split: str, measure: Measure) -> None:
    by_epoch = {n: [measure(epoch.on(split)) for epoch in epochs] for n, epochs in row.by_epoch.items()}
    mean: list[Point] = [(n, fmean(values)) for n, values in by_epoch.items()]
    if len(row.runs) > 1:
        low, high = ([(n, pick(v)) for n, v in by_epoch.items()] for pick in (min, max))
        panel.band(low, high, row.index)
    panel.line(mean, row.index)
    every = -(-len(mean) // MOST_MARKERS)
    for n, value in mean[::every]:
        panel.marker(n, value, row.index, f"{row.name}, epoch {n:.0f}: {_told(value, measure)}")
    for run in row.runs:
        if run.best:
            value = measure(run.best.on(split))
            tip = f"{run.name}, chosen epoch {run.best_epoch}: {_told(value, measure)}"
            if len(row.runs) == 1:
                panel.marker(run.best.epoch, value, row.index, tip)
            panel.ring(run.best.epoch, value, row.index, tip, 7.5 if len(row.runs) == 1 else 4.0)
    panel.name_end(*mean[-1], row.name)


def _ends(rows: Sequence[VariantRow], split: str, measure: Measure) -> str:
    """What each variant reached in its chosen epoch, in a sentence."""
    chosen = {row.name: fmean(measure(r.best.on(split)) for r in row.runs if r.best) for row in rows}
    told = (f"{name} {_told(value, measure)}" for name, value in chosen.items())
    return f"In the chosen epochs: {', '.join(told)}."


def _told(value: float, measure: Measure) -> str:
    return f"{value:.1%}" if measure is ACCURACY else f"{value:.3f}"


def comparisons(run: JudgedRun) -> list[tuple[str, Comparison, list[float]]]:
    """Name, difference in test accuracy with its interval, and difference of each seed, of each pair.

    The intervals are those of the verdict: B and C against A, and B against a longer A, at the confidence of
    Holm's step; C against B, a claim about a margin, at the policy's.
    """
    found = []
    for first, second in pairs_of(run.evidence):
        comparison = compare(run.evidence, first, second)
        if comparison is not None:
            seeds = [
                x.best.test.accuracy - y.best.test.accuracy
                for x, y in run.evidence.pairs(first, second)
                if x.best and y.best
            ]
            if (first, second) != ("C", "B") and comparison.corrected is not None:
                comparison = dataclasses.replace(comparison, interval=comparison.corrected)
            found.append((f"{first} \N{MINUS SIGN} {second}", comparison, seeds))
    return found


def forest(rows: Sequence[tuple[str, Interval, Sequence[float]]], margin: Mapping[str, float]) -> Markup:
    """Differences with their intervals, one below the other.

    Args:
        rows: name, interval and, if there are several, the difference of each seed; all -1 to 1.
        margin: by name, the share that a difference may fall below zero without mattering.
    """
    limits = [v for _, i, seeds in rows for v in (i.low, i.high, *seeds)]
    ticks = linear_axis([0.0, *(-m for m in margin.values()), *limits], _points, 6)
    told = "; ".join(f"{name}: {limits_in_points(interval)}" for name, interval, _ in rows)
    height = 78 + 48 * len(rows)
    panel = Panel(
        ticks,
        Axis(0.0, 1.0, ()),
        f"Differences in test accuracy with their intervals. {told}.",
        "Difference in test accuracy",
        "percentage points",
        height,
    )
    zero, _ = panel.at(0.0, 0.0)
    for number, (name, interval, seeds) in enumerate(rows):
        top = 46 + 48 * number
        panel.text(name, 46, top, "name")
        panel.text(limits_in_points(interval), 330, top, "tick end")
        # Beside each interval only: between the rows it would pass through the text.
        panel.add("line", "zero", x1=zero, x2=zero, y1=top + 4, y2=top + 30)
        x1, middle, x2 = (panel.at(v, 0)[0] for v in (interval.low, interval.estimate, interval.high))
        panel.add("line", "whisker", x1=x1, x2=x2, y1=top + 15, y2=top + 15)
        for x in (x1, x2):
            panel.add("line", "whisker", x1=x, x2=x, y1=top + 10, y2=top + 20)
        panel.add("rect", "estimate", x=middle - 4, y=top + 11, width=8, height=8)
        for seed in seeds if len(seeds) > 1 else ():
            panel.add("circle", "seed", cx=panel.at(seed, 0)[0], cy=top + 24, r=2.5)
        if name in margin:
            x, _ = panel.at(-margin[name], 0)
            panel.add("line", "margin", x1=x, x2=x, y1=top + 6, y2=top + 26)
    return panel.markup()


def _points(share: float) -> str:
    return in_points(share).removesuffix(".0") if abs(share) > 1e-9 else "0"


def tradeoff(run: JudgedRun) -> list[Markup]:
    """Test accuracy against training time, and against the number of trained parameters."""
    shares = [v for row in run.rows for v in (*row.limits("test", run.confidence), *row.accuracies("test"))]
    y = linear_axis(shares, percent)
    sides: list[tuple[str, str, list[float]]] = [
        ("training time", "seconds", [row.train_seconds for row in run.rows]),
        ("trained parameters", "millions", [row.first.n_trained / 1e6 for row in run.rows]),
    ]
    panels = []
    for words, unit, values in sides:
        told = ", ".join(
            f"{row.name} {row.accuracy('test'):.1%} at {value:,.3g}"
            for row, value in zip(run.rows, values, strict=True)
        )
        x = linear_axis([0.0, *values], "{:,.6g}".format, 6)
        title = f"Test accuracy by {words}"
        panel = Panel(x, y, f"{title}, {unit}: {told}.", title, unit)
        for row, value in zip(run.rows, values, strict=True):
            low, high = row.limits("test", run.confidence)
            panel.bar((value, low), (value, high), row.index)
            tip = f"{row.name}: {row.accuracy('test'):.1%}, {value:,.3g}"
            panel.marker(value, row.accuracy("test"), row.index, tip)
            panel.name_end(value, row.accuracy("test"), row.name)
        panels.append(panel.markup())
    return panels


def tuning(tuned: Mapping[str, Any], best: Sequence[float | None], indices: Mapping[str, int]) -> Markup:
    """Best validation accuracy of each variant and learning rate in its latest round; the chosen ringed.

    Args:
        tuned: the `tuning` object of the results.
        best: highest validation accuracy of each trial, 0 to 1; None if it completed no epoch.
        indices: place of each variant in the configuration.
    """
    latest: dict[tuple[str, int | None, float], tuple[int, float]] = {}
    for number, (trial, value) in enumerate(zip(tuned["trials"], best, strict=True)):
        if value is not None:
            latest[trial["variant"], trial["for_seed"], trial["learning_rate"]] = number, value
    chosen = {c["trial"] for c in tuned["choices"]}
    told = ", ".join(
        f"{label((c['variant'], c['for_seed']))} {rate_text(c['learning_rate'])}" for c in tuned["choices"]
    )
    panel = Panel(
        log_axis(rate for _, _, rate in latest),
        linear_axis([value for _, value in latest.values()], percent),
        f"Best validation accuracy against the peak learning rate. Chosen: {told}.",
        "Validation accuracy",
        "peak learning rate",
    )
    for target in dict.fromkeys(key[:2] for key in latest):
        points = sorted((key[2], value) for key, (_, value) in latest.items() if key[:2] == target)
        panel.line(points, indices[target[0]])
        panel.name_end(*points[-1], target[0])
    for (name, for_seed, rate), (number, value) in latest.items():
        tip = f"{label((name, for_seed))}, learning rate {rate_text(rate)}: {value:.1%}"
        panel.marker(rate, value, indices[name], tip)
        if number in chosen:
            panel.ring(rate, value, indices[name], f"{tip}, chosen")
    return panel.markup()


def by_run(runs: Sequence[JudgedRun], names: Sequence[str], split: str) -> list[Markup]:
    """Accuracy by epoch in several experiments, each with a color of its own, a panel for each variant."""
    rows = {
        name: [
            dataclasses.replace(row, name=run.name, index=n)
            for n, run in enumerate(runs)
            if (row := run.row(name))
        ]
        for name in names
    }
    epochs = [e for found in rows.values() for row in found for run in row.runs for e in run.epochs]
    y = linear_axis([epoch.on(split).accuracy for epoch in epochs], percent)
    panels = []
    for name, found in rows.items():
        told = f"Accuracy of {name} on the {SPLITS[split]} images. {_ends(found, split, ACCURACY)}"
        panel = Panel(epoch_axis(max(e.epoch for e in epochs)), y, told, name, "epoch")
        for row in found:
            _curve(panel, row, split, ACCURACY)
        panels.append(panel.markup())
    return panels
