"""The configuration and the images of a run, from its results, to repeat parts of it."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Sequence

from finetune.config.experiment import ExperimentConfig, Recipe, Variant
from finetune.config.names import NAMED_DATASETS
from finetune.data.split_dataset import SplitDataset
from finetune.errors import ConfigError, DataError
from finetune.run.folder import RunFolder
from finetune.run.records import Json, dataset_name
from grader.submission.parts import VariantConfig
from grader.submission.record import SPLITS, Results


def recorded_config(
    folder: RunFolder, results: Results, recorded: Json, dataset: str | None, data_root: str | None
) -> ExperimentConfig:
    """What decides images and recipe, from the results: config.toml may have been edited.

    Only where the images are is read from config.toml, since the results name no folders. The folder that
    `grader --rerun` evaluates contains none.

    Args:
        folder: of the run.
        results: of the run.
        recorded: the `config` object of its results.json.
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
    recipe = {**results.recipe, "statistics": results.statistics}
    return ExperimentConfig(
        dataset=dataset or recorded["dataset"],
        data_root=data_root or ExperimentConfig.data_root,
        split=results.split_rule,
        subset=results.subset,
        split_seed=results.split_seed,
        resplit=results.resplit,
        near_duplicates=recorded.get("near_duplicates", "report"),
        seed=results.seeds[0],
        seeds=len(results.seeds),
        precision=results.precision,
        cache_views=recorded.get("cache_views"),
        recipe=Recipe(**{f.name: recipe[f.name] for f in dataclasses.fields(Recipe)}),
    )


def recorded_variant(row: VariantConfig) -> Variant:
    """A variant of the configuration.

    Raises:
        ConfigError: a recorded value is invalid.
    """
    return Variant(**dataclasses.asdict(row))


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
