"""What the report of one run shows: values for the templates, computed from the judged run."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from finetune.report import figures
from finetune.report.classes import class_rows, confusion, counts
from finetune.report.depth import depth, ladder_rows
from finetune.report.gallery import Thumbnails, confident_mistakes, disagreements
from finetune.report.judged import JudgedRun, VariantRow
from finetune.report.near_duplicates import near_values
from finetune.report.settings import SPLITS, flat, setting, value_text
from grader.errors import UnusableError
from grader.findings import MINUS, Status, counted
from grader.formats.text import closing
from grader.grading.verdict import NO_NETWORK
from grader.reading.files import read_bytes
from grader.reading.strict_json import MAX_BYTES
from grader.submission.resnet18 import GROUPS, count, of_groups

MOST_EXCLUDED = 100
"""Excluded files that are listed."""

Values = dict[str, Any]


@dataclass(frozen=True)
class EpochRow:
    """One epoch of a variant; means over the seeds, in the order training, validation, test."""

    number: int
    accuracy: tuple[float, ...]
    loss: tuple[float, ...]
    chosen: bool


def run_context(run: JudgedRun) -> Values:
    """Everything that run.html and the templates it includes refer to."""
    grade = run.grade
    compared = figures.comparisons(run)
    margin = run.evidence.thresholds.margin
    rows = [(name, c.interval, seeds) for name, c, seeds in compared]
    return {
        "run": run,
        "grade": grade,
        "closing": closing(grade),
        "answer": [s for s in grade.sentences if not _is_about_scope(s)],
        "caveats": [s for s in grade.sentences if _is_about_scope(s)],
        "scope": scope(run),
        "open_findings": sorted(grade.unsettled, key=lambda found: found.status is not Status.FAILS),
        "failures": [r for r in run.results.runs if r.failure],
        "several_seeds": len(run.results.seeds) > 1,
        "curves": figures.curves(run.rows, run.dataset) if run.rows else {},
        "epoch_tables": [(row, _epochs(row)) for row in run.rows],
        "comparisons": compared,
        "margin": margin,
        "forest": figures.forest(rows, {f"C {MINUS} B": margin}) if rows else "",
        "tradeoff": figures.tradeoff(run) if run.rows else [],
        **_depth(run),
        **_tuning(run),
        **_classes(run),
        **near_values(run),
        **_setup(run),
        "sections": list(_sections(run)),
    }


def _sections(run: JudgedRun) -> Iterator[tuple[str, str]]:
    yield "verdict", "Verdict"
    if run.rows:
        yield from (("results", "Results"), ("curves", "Curves"), ("differences", "Differences"))
        if ladder_rows(run):
            yield "depth", "Depth"
        if run.document.get("tuning"):
            yield "tuning", "Tuning"
    if run.favorite:
        yield from (("photos", "Photos"), ("confusion", "Confusions"), ("classes", "Classes"))
    if run.results.near_duplicates.get(run.results.seeds[0]):
        yield "near-duplicates", "Near-duplicates"
    if run.rows:
        yield "layers", "Layers"
    yield "setup", "Set-up"


def _is_about_scope(sentence: str) -> bool:
    return sentence == NO_NETWORK or sentence.startswith("Scope:")


def scope(run: JudgedRun) -> str:
    """What the verdict holds for."""
    results, recipe = run.results, run.document["config"]["recipe"]
    weights = run.document["config"]["weights"]
    seeds = counted(len(results.seeds), "seed")
    return (
        f"This holds for {counted(results.splits['test'].n_samples, 'test image')} of {run.dataset} "
        f"(split {results.split_rule}) at {recipe['image_size']} pixels, {counted(results.epochs, 'epoch')} "
        f"and {seeds}, with the pretrained weights “{weights}”. Other images, sizes, budgets or weights may "
        "order the variants differently."
    )


def _epochs(row: VariantRow) -> list[EpochRow]:
    chosen = {run.best_epoch for run in row.runs}
    return [
        EpochRow(
            number,
            tuple(fmean(e.on(s).accuracy for e in epochs) for s in SPLITS),
            tuple(fmean(e.on(s).loss for e in epochs) for s in SPLITS),
            number in chosen,
        )
        for number, epochs in row.by_epoch.items()
    ]


def _depth(run: JudgedRun) -> Values:
    rows = ladder_rows(run)
    if not rows:
        return {"depth": []}
    return {
        "depth": depth(run, rows),
        "depth_finding": run.grade.findings["smallest-sufficient"],
        "depth_has_head": any(row.config.head for row in rows),
    }


def _tuning(run: JudgedRun) -> Values:
    tuned = run.document.get("tuning")
    if not tuned:
        return {"tuned": None}
    indices = {variant.name: index for index, variant in enumerate(run.results.variants)}
    best = [
        max((v["n_correct"] / v["n_samples"] for v in trial["validation"]), default=None)
        for trial in tuned["trials"]
    ]
    return {
        "tuned": tuned,
        "tuning": figures.tuning(tuned, best, indices),
        "trials": list(zip(tuned["trials"], best, strict=True)),
    }


def _classes(run: JudgedRun) -> Values:
    """Photos, confusions and per-class measures; only `favorite` where there are no predictions."""
    favorite, values = run.favorite, {"favorite": run.favorite, "classes": run.results.classes}
    if favorite is None:
        return values
    tables = {row.name: table for row in run.rows if (table := counts(run, row)) is not None}
    measured = [row for row in run.rows if row.name in tables]
    ordered = [favorite, *(row for row in measured if row.name != favorite.name)]
    predictions = run.evidence.predictions
    own = predictions[favorite.first.name, "test"]
    thumbnails = Thumbnails(run)
    b, c = (predictions.get((row.first.name, "test")) if row else None for row in map(run.row, "BC"))
    pair = None if b is None or c is None or b.sample_ids != c.sample_ids else (b, c)
    return values | {
        "mistakes": thumbnails.of(confident_mistakes(favorite.name, own)),
        "has_confidence": own.confidence is not None,
        "disagreements": thumbnails.of(disagreements(("B", "C"), *pair)) if pair else None,
        "n_disagreements": int(np.sum(pair[0].predicted != pair[1].predicted)) if pair else 0,
        "n_test": len(own.labels),
        "thumbnail_problem": thumbnails.problem,
        "confusions": [confusion(row, tables[row.name]) for row in ordered],
        "measured": measured,
        "class_rows": class_rows([tables[row.name] for row in measured], tables[favorite.name]),
    }


def _setup(run: JudgedRun) -> Values:
    document, n_classes = run.document, len(run.results.classes)
    excluded = document["dataset"]["excluded"]
    tool = {key: value for key, value in document["tool"].items() if value is not None}
    command = shlex.join(["finetune", "train", "--preset", f"{run.folder.absolute().name}/config.toml"])
    return {
        "layer_groups": [(group, count(of_groups(n_classes, (group,)))) for group in GROUPS],
        "splits": [(words, run.results.splits[split]) for split, words in SPLITS.items()],
        "notes": document["dataset"]["notes"],
        "excluded": excluded[:MOST_EXCLUDED],
        "n_excluded": len(excluded),
        # The tables above have the variants.
        "recipe": _facts({"config": {k: v for k, v in document["config"].items() if k != "variants"}}),
        "environment": _facts(
            {"environment": document["environment"], "tool": tool, "timings": document["timings"]}
        ),
        "can_repeat": (run.folder / "config.toml").is_file(),
        "command": command,
        "hashes": list(_hashes(run)),
    }


def _facts(parts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Values of the results, with their names in words."""
    values = flat(parts).items()
    return [(known.words, value_text(path, value)) for path, value in values if (known := setting(path))]


def _hashes(run: JudgedRun) -> Iterator[tuple[str, str]]:
    try:
        content = read_bytes(run.folder / "results.json", "results.json", MAX_BYTES)
        yield "results.json", hashlib.sha256(content).hexdigest()
    except UnusableError:
        pass  # the file was named directly, by another name
    weights = run.document["weights"]
    if weights:
        yield f"pretrained weights, {weights['source']}", weights["sha256"]
    for split, name in SPLITS.items():
        yield f"{name} images (fingerprint)", run.results.splits[split].fingerprint
    for one in run.results.runs:
        yield f"{one.name}, initial weights", one.initial_sha256
        if one.artifacts:
            for artifact in (one.artifacts.checkpoint, *map(one.artifacts.predictions, ("val", "test"))):
                yield artifact.path, artifact.sha256
