"""Predictions recomputed from a run's checkpoints: evidence that needs no trust in its numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from finetune.config.experiment import ExperimentConfig
from finetune.data.decode import UNREADABLE, open_image
from finetune.data.prepare import prepare_images
from finetune.data.sources import WHOLE, ImageSource
from finetune.data.split_dataset import SplitDataset, split_dataset, without
from finetune.data.splits import Splits
from finetune.errors import ConfigError, DataError
from finetune.evidence.recompute import Recomputation
from finetune.inference.trained import load_network, precision_of
from finetune.run import environment
from finetune.run.folder import RunFolder
from finetune.run.recorded import recorded_config, require_same_images
from finetune.run.records import predictions_csv
from finetune.system.console import Reporter
from finetune.system.files import write_atomically
from finetune.training.calibration import Recalibration
from finetune.training.evaluate import evaluate
from finetune.training.features import FrozenPrefix
from finetune.training.requirements import require_memory_to_evaluate
from grader.isolated.rerun import RECOMPUTED_NAME
from grader.submission.record import SPLITS, Results, Run


def evaluate_run(
    run: Path,
    output: Path,
    reporter: Reporter,
    *,
    dataset: str | None,
    data_root: str | None,
    device: str,
    threads: int,
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
        threads: CPU threads.

    Raises:
        FinetuneError: no results, other images than the run's, more memory needed than there is, a checkpoint
            that is not the recorded one, or an output folder inside the run's.
    """
    folder = RunFolder(run)
    if output.resolve().is_relative_to(run.resolve()):
        raise ConfigError(
            "--output must be outside of the run folder, whose predictions it could replace, but is "
            f"{output}; choose another folder."
        )
    found = folder.submission()
    results = found.results
    config = recorded_config(folder, results, found.document["config"], dataset, data_root)
    target = environment.choose_device(device)
    torch.set_num_threads(threads)
    precision = precision_of(config.precision, target, config.recipe.image_size)
    if precision != config.precision:
        reporter.say(f"Trained in {config.precision}, evaluated in {precision}: losses differ by rounding.")
    split = _split(config, results, threads)
    n_images = max(len(split.splits.by_name[name].samples) for name in SPLITS)
    require_memory_to_evaluate(config.recipe, n_images, precision, target)
    split, sources, _ = prepare_images(config, split, reporter, threads, target, SPLITS)
    recomputation = Recomputation(config, split, found, folder, threads)
    recomputed: dict[str, Any] = {"environment": environment.describe(target), "runs": {}, "trials": []}
    for entry in results.runs:
        if entry.artifacts is None:
            continue
        network = load_network(folder, entry.artifacts.checkpoint, len(results.classes), target)
        recomputed["runs"][entry.name] = recomputation.of(entry, network)
        prefix = FrozenPrefix(network, config.recipe, precision)
        splits, images = split.of_seed(entry.seed, sources, threads)
        calibration = _predict(entry, prefix, splits, images, output, reporter)
        recomputed["runs"][entry.name]["calibration"] = calibration
    trials = results.tuning.trials if results.tuning else ()
    recomputed["trials"] = [recomputation.of_trial(trial) for trial in trials]
    write_atomically(output / RECOMPUTED_NAME, json.dumps(recomputed).encode())


def _predict(
    run: Run,
    prefix: FrozenPrefix,
    splits: Splits,
    images: Mapping[str, ImageSource],
    output: Path,
    reporter: Reporter,
) -> dict[str, float]:
    """Write the predictions of a run's network for validation and test; its calibration computed again."""
    again = Recalibration(run.calibration.temperature if run.calibration else None)
    correct = {}
    for name in SPLITS:
        part = splits.by_name[name]
        features, labels = prefix.held_out(name, images[name], WHOLE), torch.from_numpy(part.labels())
        predictions = evaluate(prefix.network, features, labels, prefix.precision, keep=again.keep(name))
        correct[name] = predictions.predicted == part.labels()
        write_atomically(output / f"{run.name}-{name}.csv", predictions_csv(part.samples, predictions))
        reporter.say(f"{run.name} {name}: {predictions.metrics(part.labels()).accuracy:.1%}")
    return again.record(splits.by_name["val"].labels(), correct["test"])


def _split(config: ExperimentConfig, results: Results, workers: int) -> SplitDataset:
    """The run's splits, without the images that it skipped: training images are not decoded here.

    Raises:
        DataError: an image that the run skipped is readable, or these are other images than the run's.
    """
    split = split_dataset(config, workers)
    while True:
        samples = [sample for part in split.decoded.values() for sample in part.samples]
        skipped = [sample for sample in samples if sample.id in results.excluded]
        if not skipped:
            require_same_images(split, results)
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
        split = without(split, reasons, config, workers)
