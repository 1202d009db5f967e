"""What the comparison of several runs shows: what differs between them, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from markupsafe import Markup

from finetune.report import figures
from finetune.report.contents import scope
from finetune.report.judged import JudgedRun, to_owner
from finetune.report.settings import DASH, SPLITS, Setting, flat, setting, value_text
from grader.evidence.gathered import Evidence, paired_counts
from grader.findings import MINUS, rate_text
from grader.formats.text import closing
from grader.statistics import proportions
from grader.statistics.proportions import Interval
from grader.submission.record import SPLITS as HELD_OUT

PARTS = ("config", "dataset", "weights", "environment", "tool")
MOST_RUNS_PAIRED = 4
"""Of more runs, only the differences from the first are drawn."""

Values = dict[str, Any]


def comparison_context(runs: Sequence[JudgedRun]) -> Values:
    """Everything that comparison.html refers to."""
    names = list(dict.fromkeys(row.name for run in runs for row in run.rows))
    return {
        "runs": runs,
        "verdicts": [to_owner(run.grade.sentences) for run in runs],
        "closings": [closing(run.grade) for run in runs],
        "scopes": [scope(run) for run in runs],
        "differing": differing(runs),
        "names": names,
        "panels": {SPLITS[split].capitalize(): figures.by_run(runs, names, split) for split in HELD_OUT},
        "forest": _forest(runs, names),
        "confidence": runs[0].confidence,
    }


def differing(runs: Sequence[JudgedRun]) -> list[tuple[Setting, list[str]]]:
    """Settings, images, weights and machines that are not the same in all runs: what, and value in each."""
    rows = []
    names = [", ".join(variant.name for variant in run.results.variants) for run in runs]
    if len(set(names)) > 1:
        rows.append((Setting("variants", "--variants"), names))
    if any(run.document.get("tuning") for run in runs):
        rows += _rates(runs)
    tables = [
        flat({part: run.document[part] for part in PARTS if run.document[part] is not None}) for run in runs
    ]
    for path in dict.fromkeys(path for table in tables for path in table):
        found, known = [table[path] for table in tables if path in table], setting(path)
        if known is None or all(value == found[0] for value in found):
            continue
        texts = {id(table): value_text(path, table[path]) for table in tables if path in table}
        if len(set(texts.values())) == 1:  # they differ in digits that are not shown elsewhere
            texts = {id(table): str(table[path]) for table in tables if path in table}
        rows.append((known, [texts.get(id(table), DASH) for table in tables]))
    return rows


def _rates(runs: Sequence[JudgedRun]) -> list[tuple[Setting, list[str]]]:
    """The peak rates at which a variant was trained, where they differ: trials choose rates of their own."""
    rows = []
    for name in dict.fromkeys(row.name for run in runs for row in run.rows):
        found = [row.runs if (row := run.row(name)) else () for run in runs]
        texts = [", ".join(dict.fromkeys(rate_text(r.learning_rate) for r in trained)) for trained in found]
        if len({text for text in texts if text}) > 1:
            rows.append((Setting(f"peak learning rate of {name}"), [text or DASH for text in texts]))
    return rows


def _forest(runs: Sequence[JudgedRun], names: Sequence[str]) -> Markup | None:
    """Differences of each variant between runs whose test images are the same; None if none are."""
    pairs = [(i, j) for i, j in combinations(range(len(runs)), 2) if i == 0 or len(runs) <= MOST_RUNS_PAIRED]
    rows = []
    for name in names:
        for i, j in pairs:
            interval = _difference(runs[j].evidence, runs[i].evidence, name, runs[0].confidence)
            if interval is not None:
                rows.append((f"{name}: {j + 1} {MINUS} {i + 1}", interval, ()))
    return figures.forest(rows, {}) if rows else None


def _difference(first: Evidence, second: Evidence, name: str, confidence: float) -> Interval | None:
    """Tango's interval for one seed that both have trained; None without predictions for the same images."""
    seeds = {run.seed: run for run in second.of(name)}
    shared = [(run, seeds[run.seed]) for run in first.of(name) if run.seed in seeds]
    if not shared:
        return None
    one, other = shared[0]
    x, y = first.predictions.get((one.name, "test")), second.predictions.get((other.name, "test"))
    if x is None or y is None or x.sample_ids != y.sample_ids or (x.labels != y.labels).any():
        return None
    return proportions.difference_of_paired(paired_counts(x, y), confidence)
