"""The configuration and the images of a run, from its results, to repeat parts of it."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Sequence
from typing import TypeVar

from finetune.config.experiment import ExperimentConfig, Recipe, Variant
from finetune.config.names import NAMED_DATASETS
from finetune.data.split_dataset import SplitDataset
from finetune.errors import ConfigError, DataError
from finetune.run.folder import RunFolder
from finetune.run.records import Json, dataset_name
from grader.submission.record import SPLITS, Results

T = TypeVar("T")


def recorded_config(
    folder: RunFolder, recorded: Json, dataset: str | None, data_root: str | None
) -> ExperimentConfig:
    """What decides images and recipe, from the results: config.toml may have been edited.

    Only where the images are is read from config.toml, since the results name no folders. The folder that
    `grader --rerun` evaluates contains none.

    Args:
        folder: of the run.
        recorded: the `config` object of its results.
        dataset: the data set; None means the recorded one, for an image folder at the path in config.toml.
        data_root: folder for downloads; None means the one in config.toml, else `data`.

    Raises:
        ConfigError: a recorded value is invalid, or the path of the image folder is unknown.
    """
    if dataset is None:
        with contextlib.suppress(ConfigError):  # missing or damaged
            before = folder.config()
            if dataset_name(before.dataset) == recorded["dataset"]:
                dataset, data_root = before.dataset, data_root or before.data_root
    if dataset is None and recorded["dataset"] not in NAMED_DATASETS:
        raise ConfigError(
            f"The results record the image folder {recorded['dataset']!r} without its path; "
            "give it with --dataset PATH."
        )
    return ExperimentConfig(
        dataset=dataset or recorded["dataset"],
        data_root=data_root or ExperimentConfig.data_root,
        split=recorded["split"],
        subset=recorded["subset"],
        # Version 1 of the schema had no split seed: the first seed decided the split.
        split_seed=recorded.get("split_seed", recorded["seeds"][0]),
        resplit=recorded.get("resplit", False),
        near_duplicates=recorded.get("near_duplicates", "report"),
        seed=recorded["seeds"][0],
        seeds=len(recorded["seeds"]),
        precision=recorded.get("precision", "fp32"),
        recipe=_taken(Recipe, recorded["recipe"]),
    )


def recorded_variant(row: Json) -> Variant:
    """A variant from its row in the `config` object.

    Raises:
        ConfigError: a recorded value is invalid.
    """
    train = row["train"]
    return _taken(Variant, {**row, "train": train if isinstance(train, str) else tuple(train)})


def _taken(config: type[T], values: Json) -> T:
    """A part of the configuration from its record, which may say more than the part has fields for."""
    names = {field.name for field in dataclasses.fields(config)}  # type: ignore[arg-type]
    return config(**{name: value for name, value in values.items() if name in names})


def require_same_images(split: SplitDataset, results: Results, names: Sequence[str] = SPLITS) -> None:
    """Compare these splits of each seed with the recorded ones.

    Raises:
        DataError: these are other images than the run's.
    """
    for seed, name in itertools.product(results.seeds, names):
        found = split.by_seed.get(seed, split.splits).by_name[name]
        if found.fingerprint != results.splits_of(seed)[name].fingerprint:
            raise DataError(
                f"The images must be those of the run, but the {name} split has another fingerprint than the "
                "results record; name the right ones with --dataset or --data-root."
            )
