"""The parts of results.json, made from what trained: plain JSON values, named as in the grader's schema."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from finetune.config.experiment import ExperimentConfig, Variant
from finetune.data.datasets import Dataset, Sample
from finetune.data.perceptual import MAX_DISTANCE
from finetune.data.splits import Splits
from finetune.errors import RunFolderError
from finetune.network.network import Network
from finetune.network.weights import NAMED_WEIGHTS, Weights
from finetune.run.metadata import model_metadata
from finetune.training.record import Predictions, Training
from grader.errors import UnusableError
from grader.reading.files import read_bytes
from grader.reading.strict_json import MAX_BYTES
from grader.submission.predictions import HEADER

SCHEMA_VERSION = "2.0"

Pair = tuple[str, int]
"""A variant's name and a seed."""

Json = dict[str, Any]

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """What one process of `--parallel runs` trains.

    Args:
        pairs: its variants and seeds.
        local_size: processes that share the machine's cores.
    """

    pairs: tuple[Pair, ...]
    local_size: int = 1

    @classmethod
    def read(cls, table: Any) -> Shard:
        """From the content of shard.json."""
        pairs = tuple((str(variant), int(seed)) for variant, seed in table["pairs"])
        return cls(pairs, max(1, int(table["local_size"])))


class Document(TypedDict):
    """The content of results.json; `grader/results.schema.json` describes each part."""

    schema_version: str
    created_at: str
    tool: Json
    environment: Json
    config: Json
    dataset: Json
    weights: Json | None
    timings: dict[str, float]
    tuning: Json | None
    runs: list[Json]


def now() -> str:
    """The time for `created_at`, UTC."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def dataset_name(dataset: str) -> str:
    """A configuration's data set as recorded: of an image folder's path only the last part."""
    kind, colon, path = dataset.partition(":")
    return kind + colon + Path(path).resolve().name if colon else kind


def config_record(config: ExperimentConfig, split: str) -> Json:
    """The `config` object. Of paths it has only the last part, so that no personal folders are recorded."""
    variants = [
        {**dataclasses.asdict(v), "train": "all" if v.train == "all" else list(v.groups)}
        for v in config.variants
    ]
    return {
        "preset": config.preset,
        "dataset": dataset_name(config.dataset),
        "split": split,
        "subset": config.subset,
        "weights": Path(config.weights).name,
        "seeds": list(config.seed_list),
        "split_seed": config.split_seed,
        "seed_from": config.seed_from,
        "resplit": config.resplit,
        "near_duplicates": config.near_duplicates,
        "tune": config.tune and config.tune.mode,
        "precision": config.precision,
        "cache_views": config.cache_views,
        "keep_states": config.keep_states,
        "processes": config.processes,
        "variants": variants,
        "recipe": dataclasses.asdict(config.recipe),
    }


def with_absolute_paths(config: ExperimentConfig) -> ExperimentConfig:
    """The configuration with paths that mean the same from any working directory."""
    kind, colon, path = config.dataset.partition(":")
    return dataclasses.replace(
        config,
        dataset=kind + colon + _absolute(path) if colon else kind,
        data_root=_absolute(config.data_root),
        weights=config.weights if config.weights in NAMED_WEIGHTS else _absolute(config.weights),
    )


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def dataset_record(dataset: Dataset, splits: Splits, by_seed: Mapping[int, Splits]) -> Json:
    """The `dataset` object.

    Args:
        dataset: what was split.
        splits: of the first seed.
        by_seed: of each seed, if each has its own.
    """
    resplits = [
        {"seed": seed, "splits": _splits_record(own), "near_duplicates": near_record(own)}
        for seed, own in by_seed.items()
    ]
    return {
        "name": dataset.name,
        "classes": list(dataset.classes),
        "splits": _splits_record(splits),
        "resplits": resplits or None,
        "near_duplicates": near_record(splits),
        "excluded": [{"sample_id": sample_id, "reason": reason} for sample_id, reason in splits.excluded],
        "notes": list(splits.notes),
    }


def near_record(splits: Splits) -> Json | None:
    """The `near_duplicates` object of three splits."""
    if splits.near is None:
        return None
    return {"max_distance": MAX_DISTANCE, **dataclasses.asdict(splits.near)}


def _splits_record(splits: Splits) -> Json:
    return {
        name: {
            "n_samples": len(split.samples),
            "class_counts": list(split.class_counts),
            "fingerprint": split.fingerprint,
        }
        for name, split in splits.by_name.items()
    }


def weights_record(weights: Weights | None) -> Json | None:
    """The `weights` object."""
    if weights is None:
        return None
    return {
        "kind": weights.kind,
        "source": weights.source,
        "sha256": weights.sha256,
        "dropped": list(weights.dropped),
    }


def start_record(variant: Variant, seed: int, network: Network, initial_sha256: str, peak: float) -> Json:
    """The fields of a run that are known before training."""
    trainable = [{"name": n, "shape": list(p.shape), "count": p.numel()} for n, p in network.trainable()]
    n_trained = sum(p.numel() for _, p in network.trainable())
    return {
        "variant": variant.name,
        "seed": seed,
        "init": variant.init,
        "initial_sha256": initial_sha256,
        "trained_groups": list(variant.groups),
        "trainable_parameters": trainable,
        "n_trained": n_trained,
        "n_frozen": sum(p.numel() for p in network.parameters()) - n_trained,
        "frozen_sha256_before": network.frozen_sha256(),
        "learning_rate": peak,
        "trial": None,
    }


def end_record(training: Training, network: Network) -> Json:
    """The fields of a run that training adds, except its files, total seconds and memory."""
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
    }


def checkpoint_metadata(record: Document, start: Json, training: Training) -> dict[str, str]:
    """What the checkpoint of a run says about itself."""
    return model_metadata(
        tuple(record["dataset"]["classes"]),
        record["config"]["recipe"]["image_size"],
        schema_version=SCHEMA_VERSION,
        variant=start["variant"],
        seed=start["seed"],
        epoch=training.best_epoch or 0,
    )


def predictions_csv(samples: Sequence[Sample], predictions: Predictions) -> bytes:
    """A row for each image with the columns that the grader reads; nine digits restore a float32 exactly."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    columns = zip(samples, predictions.predicted, predictions.nll, predictions.confidence, strict=True)
    for sample, predicted, nll, confidence in columns:
        writer.writerow([sample.id, sample.label, int(predicted), f"{nll:.9g}", f"{confidence:.9g}"])
    return text.getvalue().encode()


def short(value: Any) -> str:
    """A value as JSON, in at most 80 characters."""
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def read_json(file: Path, build: Callable[[Any], T]) -> T | None:
    """What `build` makes of a JSON file's content, or None if there is no file."""
    if not os.path.lexists(file):
        return None
    try:
        return build(json.loads(read_bytes(file, file.name, MAX_BYTES)))
    except (UnusableError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunFolderError(
            f"{file} must be a file that finetune wrote, but it cannot be read ({error}); start a new run."
        ) from error
