"""The run folder: results.json checked against its schema, predictions, checkpoints, configuration.

Every file is written beside its place and renamed into it, so that a reader never sees half of one.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w
from jsonschema import Draft202012Validator

from finetune.config.experiment import ExperimentConfig, Variant
from finetune.config.presets import to_table
from finetune.data.datasets import Dataset, Sample
from finetune.data.splits import Splits
from finetune.errors import RunFolderError, listed
from finetune.network.network import Network
from finetune.network.weights import Weights
from finetune.system.files import write_atomically
from finetune.training.record import Predictions, Training

SCHEMA_VERSION = "1.0"
STATE = "state"
ARTIFACTS = {
    "val_predictions": "predictions/{}-val.csv",
    "test_predictions": "predictions/{}-test.csv",
    "checkpoint": "checkpoints/{}.safetensors",
}
"""Where a run's files lie in its folder, by what their names begin with."""

IDENTITY = ("config", "dataset", "weights")
"""The parts of the results that a resumed experiment must share with the one that began."""


def begin_run_folder(out: Path, config: ExperimentConfig) -> None:
    """Write the resolved configuration into a new run folder.

    Raises:
        RunFolderError: it has content, or cannot be written.
    """
    require_new(out)
    write_atomically(out / "config.toml", tomli_w.dumps(to_table(config)).encode())


def require_new(out: Path) -> None:
    """Raise RunFolderError if a run folder is there and holds anything."""
    left_by_a_kill = (".lock", "config.toml.partial")
    if out.is_dir() and any(path.name not in left_by_a_kill for path in out.iterdir()):
        raise RunFolderError(
            f"--out must name a new or empty folder, but {out} has content; "
            f"name another one, or go on with it: finetune train --resume {out}."
        )


def write_identity(out: Path, record: dict[str, Any]) -> None:
    """Remember what the experiment is made of, so that a resumed one can be held to it."""
    identity = {name: record[name] for name in IDENTITY}
    write_atomically(out / STATE / "identity.json", json.dumps(identity).encode())


def ended_runs(out: Path, record: dict[str, Any]) -> tuple[list[dict[str, Any]], float]:
    """The runs that earlier processes finished in this folder, and the seconds they had taken in all.

    The folder must be of the same experiment.

    Raises:
        RunFolderError: the folder holds no experiment, or one of other data, weights or configuration.
    """
    _require_own_folders(out)
    before = _read(out / "results.json")
    if before is not None:
        require_consistent(before, out / "results.json")
    identity = before or _read(out / STATE / "identity.json")
    if identity is None:
        return [], 0.0
    if not identity.keys() >= set(IDENTITY):
        raise RunFolderError(
            f"{out / STATE / 'identity.json'} must hold {listed(list(IDENTITY))}, but it does not; "
            "start a new run."
        )
    for part in IDENTITY:
        found = difference(identity[part], record[part], part)
        if found:
            raise RunFolderError(
                f"A run can only go on with what it began with, but in {out} {found}; "
                "put that back or start a new run."
            )
    return (list(before["runs"]), float(before["timings"]["total_seconds"])) if before else ([], 0.0)


def _require_own_folders(out: Path) -> None:
    """What is written and removed lies in the run folder itself, wherever links in it may lead."""
    for name in (STATE, "predictions", "checkpoints"):
        if (out / name).is_symlink():
            raise RunFolderError(
                f"A run's files must lie inside its folder, but {out / name} is a link; start a new run."
            )


def require_consistent(record: dict[str, Any], path: Path) -> None:
    """Raise RunFolderError if results read from `path` are not as finetune writes them."""
    problem = schema_problem(record)
    for run in () if problem else record["runs"]:
        if (run["best_epoch"] or 0) > len(run["epochs"]):
            problem = f"the best epoch of variant {run['variant']} is none of its epochs"
    if problem:
        raise RunFolderError(
            f"{path} must be as finetune wrote it, but {problem}; remove it to train those runs again."
        )


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text("utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no JSON object")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(
            f"{path} cannot be read ({error}); remove it to train those runs again."
        ) from error
    return content


def difference(before: Any, now: Any, path: str) -> str:
    """Where two values first differ, in words; empty if they do not."""
    if isinstance(before, dict) and isinstance(now, dict) and before.keys() == now.keys():
        return next(filter(None, (difference(before[k], now[k], f"{path}.{k}") for k in before)), "")
    return "" if before == now else f"{path} was {short(before)} and is {short(now)}"


def short(value: Any) -> str:
    """A value in at most 80 letters."""
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def remove_state(out: Path) -> None:
    """Drop what only a run under way needs."""
    shutil.rmtree(out / STATE, ignore_errors=True)


def write_artifacts(
    out: Path, stem: str, splits: Splits, checkpoint: bytes, predictions: Mapping[str, Predictions]
) -> dict[str, Any]:
    """Write predictions and checkpoint of a chosen epoch; the `artifacts` object of its run."""
    files = {
        f"{split}_predictions": predictions_csv(splits.by_name[split].samples, found)
        for split, found in predictions.items()
    }
    files["checkpoint"] = checkpoint
    paths = {name: ARTIFACTS[name].format(stem) for name in files}
    return {
        name: {"path": paths[name], "sha256": write_atomically(out / paths[name], content)}
        for name, content in files.items()
    }


def predictions_csv(samples: Sequence[Sample], predictions: Predictions) -> bytes:
    """sample_id, label, predicted, nll for each image; nine digits give a float32 back exactly."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["sample_id", "label", "predicted", "nll"])
    for sample, predicted, nll in zip(samples, predictions.predicted, predictions.nll, strict=True):
        writer.writerow([sample.id, sample.label, int(predicted), f"{nll:.9g}"])
    return text.getvalue().encode()


def config_record(config: ExperimentConfig, split: str) -> dict[str, Any]:
    """The `config` object. Paths are cut to their last part: a results file names no one's folders."""
    kind, colon, path = config.dataset.partition(":")
    variants = [
        {**dataclasses.asdict(v), "train": "all" if v.train == "all" else list(v.groups)}
        for v in config.variants
    ]
    return {
        "preset": config.preset,
        "dataset": kind + colon + Path(path).resolve().name if colon else kind,
        "split": split,
        "subset": config.subset,
        "weights": Path(config.weights).name,
        "seeds": list(config.seed_list),
        "precision": config.precision,
        "cache_views": config.cache_views,
        "processes": config.processes,
        "variants": variants,
        "recipe": dataclasses.asdict(config.recipe),
    }


def dataset_record(dataset: Dataset, splits: Splits) -> dict[str, Any]:
    """The `dataset` object."""
    return {
        "name": dataset.name,
        "classes": list(dataset.classes),
        "splits": {
            name: {
                "n_samples": len(split.samples),
                "class_counts": list(split.class_counts),
                "fingerprint": split.fingerprint,
            }
            for name, split in splits.by_name.items()
        },
        "excluded": [{"sample_id": sample_id, "reason": reason} for sample_id, reason in splits.excluded],
        "notes": list(splits.notes),
    }


def weights_record(weights: Weights | None) -> dict[str, Any] | None:
    """The `weights` object."""
    if weights is None:
        return None
    return {
        "kind": weights.kind,
        "source": weights.source,
        "sha256": weights.sha256,
        "dropped": list(weights.dropped),
    }


def start_record(
    variant: Variant, seed: int, network: Network, initial_sha256: str, peak: float
) -> dict[str, Any]:
    """What is known of a run before it trains."""
    trainable = [{"name": n, "shape": list(p.shape), "count": p.numel()} for n, p in network.trainable()]
    n_trained = sum(p.numel() for _, p in network.trainable())
    frozen = network.frozen_sha256()
    return {
        "variant": variant.name,
        "seed": seed,
        "init": variant.init,
        "initial_sha256": initial_sha256,
        "trained_groups": list(variant.groups),
        "trainable_parameters": trainable,
        "n_trained": n_trained,
        "n_frozen": sum(p.numel() for p in network.parameters()) - n_trained,
        "frozen_sha256_before": frozen,
        "learning_rate": peak,
    }


def end_record(training: Training, network: Network, artifacts: dict[str, Any] | None) -> dict[str, Any]:
    """What training adds to a run's record, but for seconds and memory."""
    train_seconds = sum(e.train_seconds for e in training.epochs)
    images = sum(e.train.n_samples for e in training.epochs)
    return {
        "status": "completed" if training.failure is None else "failed",
        "failure": training.failure,
        "frozen_sha256_after": network.frozen_sha256(),
        "budget": {
            "epochs": len(training.epochs),
            "steps": training.steps,
            "images": training.images,
            "stream_sha256": training.stream_sha256,
        },
        "epochs": [dataclasses.asdict(e) for e in training.epochs],
        "best_epoch": training.best_epoch,
        "images_per_second": images / train_seconds if images else 0.0,
        "artifacts": artifacts,
    }


@cache
def _validator() -> Draft202012Validator:
    schema = json.loads((resources.files("grader") / "results.schema.json").read_text("utf-8"))
    return Draft202012Validator(schema)


def schema_problem(results: Any) -> str:
    """The first place where results do not fit the grader's schema, and why; empty if they do."""
    error = next(_validator().iter_errors(results), None)
    return "" if error is None else f"{error.json_path}: {error.message[:200]}"


def write_results(out: Path, results: dict[str, Any]) -> None:
    """Check the results against the grader's schema, then write results.json.

    Raises:
        RunFolderError: the file cannot be written.
        AssertionError: they do not fit the schema, which is a bug of finetune; they are written beside it.
    """
    results = {
        "schema_version": SCHEMA_VERSION,
        "created_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        **results,
    }
    content = (json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    problem = schema_problem(results)
    if problem:
        write_atomically(out / "results.invalid.json", content)
        raise AssertionError(f"results do not fit the schema: {problem}")
    write_atomically(out / "results.json", content)
