"""Predictions recomputed from a run's checkpoints: evidence that needs no trust in its numbers."""

from __future__ import annotations

import contextlib
import itertools
import json
from pathlib import Path
from typing import Any, cast

import torch

from finetune.config.experiment import ExperimentConfig, Recipe
from finetune.data.decode import UNREADABLE, open_image
from finetune.data.prepare import SplitDataset, prepare_images, split_dataset
from finetune.data.sources import WHOLE
from finetune.errors import ConfigError, DataError
from finetune.run import environment
from finetune.run.folder import RunFolder
from finetune.run.recompute import Recomputation
from finetune.run.records import dataset_name, predictions_csv
from finetune.run.records import recorded as from_record
from finetune.run.trained import load_network, precision_of
from finetune.system import host
from finetune.system.console import Reporter
from finetune.system.files import write_atomically
from finetune.training.calibration import Recalibration
from finetune.training.evaluate import evaluate
from finetune.training.features import FrozenPrefix
from finetune.training.requirements import require_memory_to_evaluate
from grader.record import SPLITS, Results, results_from
from grader.rerun import RECOMPUTED_NAME


def evaluate_run(
    run: Path,
    output: Path,
    reporter: Reporter,
    *,
    dataset: str | None,
    data_root: str | None,
    device: str,
    threads: int | None = None,
) -> None:
    """Evaluate every checkpoint of a run on its validation and test images and write the predictions.

    Args:
        run: run folder.
        output: folder for {variant}-seed{n}-{val,test}.csv and recomputed.json, what seed, weights and
            images determine before training.
        reporter: receives the accuracies.
        dataset: the data set; None means the recorded one, for an image folder at the path in config.toml.
        data_root: folder for downloads; None means the one in config.toml, else `data`.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        threads: CPU threads; None means OMP_NUM_THREADS, else one per core.

    Raises:
        FinetuneError: no results, other images than the run's, more memory needed than there is, or a
            checkpoint that is not the recorded one.
    """
    folder = RunFolder(run)
    document = cast("dict[str, Any]", folder.read())
    results = results_from(document)
    config = recorded_config(folder, document["config"], dataset, data_root)
    target = environment.choose_device(device)
    threads = host.choose_threads(threads)
    torch.set_num_threads(threads)
    precision = precision_of(config.precision, target, config.recipe.image_size)
    if precision != config.precision:
        reporter.say(f"Trained in {config.precision}, evaluated in {precision}: losses differ by rounding.")
    split = _split(config, results, folder, threads)
    _require_memory(config, split, precision, target)
    split, sources, _ = prepare_images(config, split, reporter, threads, target, SPLITS)
    recomputation = Recomputation(config, split, document, folder, threads)
    recomputed: dict[str, Any] = {"environment": environment.describe(target), "runs": {}}
    for entry in results.runs:
        if entry.artifacts is None:
            continue
        network = load_network(folder, entry.artifacts.checkpoint, len(results.classes), target)
        recomputed["runs"][entry.name] = recomputation.of(entry, network)
        prefix = FrozenPrefix(network, config.recipe, precision)
        splits, images = split.of_seed(entry.seed, sources, threads)
        again = Recalibration(entry.calibration.temperature if entry.calibration else None)
        correct = {}
        for name, source in images.items():
            part, features = splits.by_name[name], prefix.held_out(name, source, WHOLE)
            labels, keep = torch.from_numpy(part.labels()), again.keep(name)
            predictions = evaluate(network, features, labels, precision, keep=keep)
            correct[name] = predictions.predicted == part.labels()
            write_atomically(output / f"{entry.name}-{name}.csv", predictions_csv(part.samples, predictions))
            reporter.say(f"{entry.name} {name}: {predictions.metrics(part.labels()).accuracy:.1%}")
        labels_of_val = splits.by_name["val"].labels()
        recomputed["runs"][entry.name]["calibration"] = again.record(labels_of_val, correct["test"])
    write_atomically(output / RECOMPUTED_NAME, json.dumps(recomputed).encode())


def _require_memory(
    config: ExperimentConfig, split: SplitDataset, precision: str, target: torch.device
) -> None:
    n_images = max(len(split.splits.by_name[name].samples) for name in SPLITS)
    require_memory_to_evaluate(config.recipe, n_images, precision, target)


def _require_same_images(split: SplitDataset, results: Results, folder: RunFolder) -> None:
    """Compare the splits of each seed with the recorded ones.

    Raises:
        DataError: these are other images than the run's.
    """
    for seed, name in itertools.product(results.seeds, SPLITS):
        found = split.by_seed.get(seed, split.splits).by_name[name]
        if found.fingerprint != results.splits_of(seed)[name].fingerprint:
            raise DataError(
                f"The images must be those of the run, but the {name} split has another fingerprint than "
                f"{folder.results_file} records; name the right ones with --dataset or --data-root."
            )


def _split(config: ExperimentConfig, results: Results, folder: RunFolder, workers: int) -> SplitDataset:
    """The run's splits, without the images that it skipped: training images are not decoded here.

    Raises:
        DataError: an image that the run skipped is readable, or these are other images than the run's.
    """
    split = split_dataset(config, workers)
    while True:
        samples = [sample for part in split.decoded.values() for sample in part.samples]
        skipped = [sample for sample in samples if sample.id in results.excluded]
        if not skipped:
            _require_same_images(split, results, folder)
            return split
        for sample in skipped:
            try:
                open_image(sample)
            except UNREADABLE:
                continue
            raise DataError(
                f"The results exclude {sample.id!r} as unreadable, but it can be read here; "
                "evaluate with the images that the run used."
            )
        reasons = {sample.id: "skipped by the run" for sample in skipped}
        split = split_dataset(config, workers, split.dataset.without(reasons))


def recorded_config(
    folder: RunFolder, recorded: dict[str, Any], dataset: str | None, data_root: str | None
) -> ExperimentConfig:
    """What evaluation needs of the configuration, from the results: config.toml may have been edited.

    Only where the images are is read from config.toml, since the results name no folders. The folder that
    `grader --rerun` evaluates contains none.

    Raises:
        ConfigError: a recorded value is invalid, or the path of the image folder is unknown.
    """
    if dataset is None:
        with contextlib.suppress(ConfigError):  # missing or damaged
            before = folder.config()
            if dataset_name(before.dataset) == recorded["dataset"]:
                dataset, data_root = before.dataset, data_root or before.data_root
    if dataset is None and recorded["dataset"] not in ("digits", "flowers102"):
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
        recipe=from_record(Recipe, recorded["recipe"]),
    )
