"""Run folders that share one experiment, trained by separate processes, joined into one."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import tomli_w

from finetune.config.experiment import ExperimentConfig, Variant
from finetune.config.presets import load_preset, to_table
from finetune.errors import RunFolderError, listed
from finetune.network.weights import inside
from finetune.run import folder as results
from finetune.run import reevaluate
from finetune.run.experiment import CHECKPOINT_BYTES, run_stem
from finetune.run.report import curves, summary
from finetune.system import host
from finetune.system.console import Reporter
from finetune.system.files import locked, write_atomically

ALIKE = {
    "tool": ("be of one version of finetune", "train them all with that version"),
    "environment": (
        "come from machines of one kind, since their times are compared",
        "train them all on one kind",
    ),
    "config": (
        "have the same settings but for variants and seeds",
        "train them all with the same preset and options",
    ),
    "dataset": (
        "have the same images in the same splits",
        "train them all on the same images with one --seed, which decides the split: "
        "--seeds N --parallel runs trains more seeds on it",
    ),
    "weights": ("start from the same weights", "train them all with the same --weights"),
}
"""What joined runs must share: the rule, and what to do where it is broken."""

Run = dict[str, Any]


def merge_runs(runs: Sequence[Path], out: Path, reporter: Reporter) -> dict[str, Any]:
    """Join run folders into one, as if one process had trained them all; the results as written.

    Seconds outside the runs are added up. Merging the same folders again writes the same run folder again.

    Args:
        runs: run folders that share machine, images, weights and settings, each with some of the pairs of
            variant and seed; together they must have every pair of their variants and seeds.
        out: run folder: new or empty, or the folder that holds `runs`.
        reporter: told what came of it.

    Raises:
        FinetuneError: a folder or a file of it is missing or damaged, they do not fit together, or `out`
            has other content or cannot be written.
    """
    records = [_read(run) for run in runs]
    _require_alike(runs, records)
    entries = _entries(runs, records)
    config = _config(runs[0], records)
    order = [(variant.name, seed) for seed in config.seed_list for variant in config.variants]
    missing = [f"{name} seed {seed}" for name, seed in order if (name, seed) not in entries]
    if missing:
        raise RunFolderError(
            f"Joined runs must have every variant with every seed, but they lack {listed(missing)}; "
            "let them end first, or name their run folders too."
        )
    for folder, run in entries.values():  # before anything is written
        for name in run["artifacts"] or ():
            _content(folder, run, name)
    host.check_writable(out, "run folder", len(entries) * CHECKPOINT_BYTES)
    with locked(out):
        _begin(out, runs, config)
        record = {
            **{part: records[0][part] for part in ("tool", "environment", "dataset")},
            "config": results.config_record(config, records[0]["config"]["split"]),
            "weights": next((r["weights"] for r in records if r["weights"] is not None), None),
            "timings": {name: sum(r["timings"][name] for r in records) for name in records[0]["timings"]},
            "runs": [_copied(*entries[pair], out) for pair in order],
        }
        results.write_results(out, record)
        curves(record, out / "curves.png")
    reporter.table(summary(record))
    reporter.say(f"{len(runs)} run folders joined. Results: {out / 'results.json'}   Grade: grader {out}")
    return record


def _read(run: Path) -> dict[str, Any]:
    record = reevaluate.read_results(run)
    results.require_consistent(record, run / "results.json")
    return record


def _require_alike(runs: Sequence[Path], records: list[dict[str, Any]]) -> None:
    for part, (rule, advice) in ALIKE.items():
        # A run that starts from random weights alone has none, which fits any.
        known = [(run, r[part]) for run, r in zip(runs, records, strict=True) if r[part] is not None]
        for run, value in known[1:]:
            first, before = known[0]
            if part == "config":
                before, value = ({**v, "variants": None, "seeds": None} for v in (before, value))
            difference = results.difference(before, value, part)
            if difference:
                raise RunFolderError(
                    f"Joined runs must {rule}, but from {first} to {run} {difference}; {advice}."
                )


def _entries(runs: Sequence[Path], records: list[dict[str, Any]]) -> dict[tuple[str, int], tuple[Path, Run]]:
    """Each pair of variant and seed with its folder and its entry in the results."""
    entries: dict[tuple[str, int], tuple[Path, Run]] = {}
    for folder, record in zip(runs, records, strict=True):
        for run in record["runs"]:
            pair = run["variant"], run["seed"]
            if pair in entries:
                raise RunFolderError(
                    f"Joined runs must have each variant and seed once, but {pair[0]} seed {pair[1]} is in "
                    f"{entries[pair][0]} and in {folder}; leave one of them out."
                )
            entries[pair] = folder, run
    return entries


def _config(first: Path, records: list[dict[str, Any]]) -> ExperimentConfig:
    """The configuration of the whole: the first folder's, with the variants and seeds of all."""
    configs = [record["config"] for record in records]
    variants: dict[str, Any] = {}
    # The longest list first: where one folder names them all, its order is theirs.
    lists = sorted((c["variants"] for c in configs), key=len, reverse=True)
    for row in chain.from_iterable(lists):
        if variants.setdefault(row["name"], row) != row:
            raise RunFolderError(
                f"Joined runs must mean the same by a variant's name, but variant {row['name']} was "
                f"{results.short(variants[row['name']])} and is {results.short(row)}; rename one of them."
            )
    seeds = sorted({seed for c in configs for seed in c["seeds"]})
    if seeds[-1] - seeds[0] >= len(seeds):
        raise RunFolderError(
            f"Seeds of joined runs must follow one another, but they are {listed([str(s) for s in seeds])}; "
            "train those between too, or join fewer."
        )
    path = first / "config.toml"
    config = dataclasses.replace(
        load_preset(str(path)),
        variants=tuple(Variant(**{**row, "train": _groups(row["train"])}) for row in variants.values()),
        seed=seeds[0],
        seeds=len(seeds),
    )
    whole = {**configs[0], "variants": list(variants.values()), "seeds": seeds}
    difference = results.difference(whole, results.config_record(config, whole["split"]), "config")
    if difference:
        raise RunFolderError(
            f"{path} must be as finetune wrote it beside results.json, but {difference}; put that back."
        )
    return config


def _groups(train: str | list[str]) -> str | tuple[str, ...]:
    return train if isinstance(train, str) else tuple(train)


def _begin(out: Path, runs: Sequence[Path], config: ExperimentConfig) -> None:
    """Write config.toml, unless this very merge began here before.

    Raises:
        RunFolderError: the folder has other content.
    """
    content = tomli_w.dumps(to_table(config)).encode()
    written = out / "config.toml"
    if written.is_file() and written.read_bytes() == content:
        return
    own = {".lock", "config.toml.partial"} | {
        run.name for run in runs if run.resolve().parent == out.resolve()
    }
    others = sorted(path.name for path in out.iterdir() if path.name not in own)
    if others:
        raise RunFolderError(
            f"--out must name a new or empty folder, or the one that holds the runs, but {out} has other "
            f"content ({listed(others, 3)}); name another one."
        )
    write_atomically(written, content)


def _content(folder: Path, run: Run, name: str) -> bytes:
    """The content of an artifact.

    Raises:
        FinetuneError: it lies outside its folder, cannot be read, or is not the one recorded.
    """
    artifact = run["artifacts"][name]
    path = inside(folder, artifact["path"])
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} must be readable, but: {error}; put it back or train again.") from error
    if hashlib.sha256(content).hexdigest() != artifact["sha256"]:
        raise RunFolderError(
            f"{path} must have the SHA-256 that the results record, but it has another; "
            "put it back or train again."
        )
    return content


def _copied(folder: Path, run: Run, out: Path) -> Run:
    """A run's entry with its artifacts in `out`."""
    if run["artifacts"] is None:
        return run
    artifacts = {}
    for name, pattern in results.ARTIFACTS.items():
        path = pattern.format(run_stem(run["variant"], run["seed"]))
        content = _content(folder, run, name)
        artifacts[name] = {"path": path, "sha256": write_atomically(inside(out, path), content)}
    return {**run, "artifacts": artifacts}
