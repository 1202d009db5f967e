"""Run folders with parts of one experiment, trained by separate processes, merged into one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import chain, product
from pathlib import Path
from typing import Any, cast

from finetune.config.experiment import ExperimentConfig
from finetune.errors import RunFolderError, listed
from finetune.run import identity, records
from finetune.run.experiment import report
from finetune.run.folder import ARTIFACTS, RunFolder
from finetune.run.recorded import recorded_variant
from finetune.run.records import Document, Json, Pair
from finetune.system.console import Reporter
from grader.submission.load import Submission
from grader.submission.record import run_name

ALIKE = {
    "tool": ("come from one version of finetune", "train them all with that version"),
    "environment": (
        "come from machines of one kind, since their times are compared",
        "train them all on one kind",
    ),
    "config": (
        "have the same settings except for variants and seeds",
        "train them all with the same preset and options",
    ),
    "dataset": (
        "have the same images in the same splits",
        "train them all on the same images with one --split-seed; with --resplit, also with the same --seeds",
    ),
    "tuning": (
        "have the learning rates of the same trials",
        "train them all as the shards of one tuned run, with --tune --parallel runs",
    ),
    "weights": ("start from the same weights", "train them all with the same --weights"),
}
"""What merged runs must have in common: the rule, and what to do where it is broken."""


def merge_runs(runs: Sequence[Path], out: Path, reporter: Reporter) -> Document:
    """Merge run folders into one that equals what one process would have written.

    Seconds outside the runs are added up. Merging the same folders again writes the same run folder again.

    Args:
        runs: run folders that share machine, images, weights and settings, each with some of the pairs of
            variant and seed; together they must have every pair of their variants and seeds.
        out: run folder: new or empty, or the folder that holds `runs`.
        reporter: receives the table of results.

    Returns:
        The results as written.

    Raises:
        FinetuneError: a folder or a file of it is missing or damaged, they do not fit together, or `out`
            has other content or cannot be written.
    """
    folders = [RunFolder(run) for run in runs]
    found = [folder.submission() for folder in folders]
    documents = [cast("Document", submission.document) for submission in found]
    _require_alike(runs, documents)
    entries = _entries(folders, documents)
    config = _config(folders[0], found)
    pairs = [(variant.name, seed) for seed, variant in product(config.seed_list, config.variants)]
    missing = [f"{name} seed {seed}" for name, seed in pairs if (name, seed) not in entries]
    if missing:
        raise RunFolderError(
            "Merged runs must contain every variant with every seed, but these are missing: "
            f"{listed(missing)}; let them finish first, or name their run folders too."
        )
    for folder, run in entries.values():  # before anything is written
        for artifact in (*(run["artifacts"] or {}).values(), *run["states"]):
            folder.read_artifact(artifact)
    merged = RunFolder(out)
    merged.check_room(len(entries))
    with merged.locked():
        if not (merged.config_file.is_file() and merged.config() == config):  # else merged before
            merged.require_new(*(run.name for run in runs if run.resolve().parent == out.resolve()))
            merged.write_config(config)
        timings = [document["timings"] for document in documents]
        document: Document = {
            **documents[0],
            "config": records.config_record(config, documents[0]["config"]["split"]),
            "weights": next((d["weights"] for d in documents if d["weights"] is not None), None),
            "timings": {name: sum(t[name] for t in timings) for name in timings[0]},
            "runs": [_copied(*entries[pair], merged) for pair in pairs],
        }
        merged.write_results(document)
        reporter.say(f"{len(runs)} run folders merged.")
        report(document, merged, reporter)
    return document


def _require_alike(runs: Sequence[Path], documents: Sequence[Document]) -> None:
    for part, (rule, advice) in ALIKE.items():
        values = [(run, document[part]) for run, document in zip(runs, documents, strict=True)]  # type: ignore[literal-required]
        # A run that starts from random weights alone has no weights, which fits any.
        known = [(run, value) for run, value in values if value is not None]
        for run, value in known[1:]:
            first, before = known[0]
            if part == "dataset":
                before, value = map(identity.images_of, (before, value))
            if part == "config":
                before, value = ({**v, "variants": None, "seeds": None} for v in (before, value))
            difference = identity.difference(before, value, part)
            if difference:
                raise RunFolderError(
                    f"Merged runs must {rule}, but from {first} to {run} {difference}; {advice}."
                )


def _entries(
    folders: Sequence[RunFolder], documents: Sequence[Document]
) -> dict[Pair, tuple[RunFolder, Json]]:
    """Each pair of variant and seed with its folder and its entry in the results."""
    entries: dict[Pair, tuple[RunFolder, Json]] = {}
    for folder, document in zip(folders, documents, strict=True):
        for run in document["runs"]:
            pair = run["variant"], run["seed"]
            if pair in entries:
                raise RunFolderError(
                    f"Merged runs must contain each variant and seed only once, but {pair[0]} seed {pair[1]} "
                    f"is in {entries[pair][0].path} and in {folder.path}; leave one of them out."
                )
            entries[pair] = folder, run
    return entries


def _config(first: RunFolder, found: Sequence[Submission]) -> ExperimentConfig:
    """The configuration of the whole: the first folder's, with the variants and seeds of all."""
    configs = [submission.document["config"] for submission in found]
    variants: dict[str, Any] = {}
    # The longest list first: if one folder lists them all, its order is kept.
    lists = sorted((c["variants"] for c in configs), key=len, reverse=True)
    for row in chain.from_iterable(lists):
        if variants.setdefault(row["name"], row) != row:
            raise RunFolderError(
                f"A variant's name must mean the same in all merged runs, but {row['name']} is "
                f"{records.short(variants[row['name']])} in one and {records.short(row)} in another; "
                "rename one of them."
            )
    seeds = sorted({seed for c in configs for seed in c["seeds"]})
    if seeds[-1] - seeds[0] >= len(seeds):
        raise RunFolderError(
            f"Seeds of merged runs must be consecutive, but they are {listed([str(s) for s in seeds])}; "
            "train the missing ones too, or merge fewer."
        )
    by_name = {variant.name: variant for submission in found for variant in submission.results.variants}
    config = dataclasses.replace(
        first.config(),
        variants=tuple(recorded_variant(by_name[name]) for name in variants),
        seed=seeds[0],
        seeds=len(seeds),
    )
    whole = {**configs[0], "variants": list(variants.values()), "seeds": seeds}
    difference = identity.difference(whole, records.config_record(config, whole["split"]), "config")
    if difference:
        raise RunFolderError(
            f"{first.config_file} must match the results.json beside it, but {difference}; restore it."
        )
    return config


def _copied(folder: RunFolder, run: Json, merged: RunFolder) -> Json:
    """A run's entry, with its files copied into the merged folder."""
    if run["artifacts"] is None:
        return run
    stem = run_name(run["variant"], run["seed"])
    for state in run["states"]:
        merged.write_state(stem, state["epoch"], folder.read_artifact(state))
    contents = {name: folder.read_artifact(run["artifacts"][name]) for name in ARTIFACTS}
    return {**run, "artifacts": {n: merged.write_artifact(stem, n, c) for n, c in contents.items()}}
