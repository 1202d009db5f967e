"""Predictions recomputed from a run's checkpoints: evidence that needs no trust in its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch

from finetune.config.experiment import GROUPS, ExperimentConfig, Recipe, Variant
from finetune.data.decode import UNREADABLE, open_image
from finetune.data.prepare import SplitDataset, prepare_images, split_dataset
from finetune.data.sources import WHOLE
from finetune.errors import ConfigError, DataError, WeightsError
from finetune.network.network import Network
from finetune.network.resnet18 import build, state_shapes
from finetune.network.weights import read_state
from finetune.run import environment
from finetune.run.folder import RunFolder
from finetune.run.records import predictions_csv
from finetune.run.records import recorded as from_record
from finetune.system import host
from finetune.system.console import Reporter
from finetune.system.files import write_atomically
from finetune.training.evaluate import evaluate
from finetune.training.features import FrozenPrefix
from finetune.training.precision import choose_precision
from grader.record import SPLITS, Artifact, Results, results_from


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
        output: folder for {variant}-seed{n}-{val,test}.csv.
        reporter: receives the accuracies.
        dataset: the data set; None means the recorded one, which must not be an image folder.
        data_root: folder for downloads; None means `data`.
        device: `auto`, `cpu` or `cuda`.
        threads: CPU threads; None means OMP_NUM_THREADS, else one per core.

    Raises:
        FinetuneError: no results, other images than the run's, or a checkpoint that is not the recorded one.
    """
    folder = RunFolder(run)
    document = cast("dict[str, Any]", folder.read())
    results = results_from(document)
    config = recorded_config(document["config"], dataset, data_root)
    target = environment.choose_device(device)
    threads = host.choose_threads(threads)
    torch.set_num_threads(threads)
    try:
        precision = choose_precision(config.precision, target, config.recipe.image_size)
    except ConfigError:
        precision = "fp32"
        reporter.say(f"Trained in {config.precision}, evaluated in fp32: losses differ by rounding.")
    split = _split(config, results, threads)
    for name in SPLITS:
        if split.splits.by_name[name].fingerprint != results.splits[name].fingerprint:
            raise DataError(
                f"The images must be those of the run, but the {name} split has another fingerprint than "
                f"{folder.results_file} records; name the right ones with --dataset or --data-root."
            )
    split, sources, _ = prepare_images(config, split, reporter, threads, target, SPLITS)
    for entry in results.runs:
        if entry.artifacts is None:
            continue
        variant = Variant(name=entry.variant, init="random", train=GROUPS)
        network = build(variant, len(results.classes), 0, None)
        network.to(target).to(memory_format=torch.channels_last)
        _load(network, folder, entry.artifacts.checkpoint, len(results.classes))
        prefix = FrozenPrefix(network, config.recipe, precision)
        for name, source in sources.items():
            part = split.splits.by_name[name]
            features = prefix.held_out(name, source, WHOLE)
            predictions = evaluate(network, features, torch.from_numpy(part.labels()), precision)
            write_atomically(output / f"{entry.name}-{name}.csv", predictions_csv(part.samples, predictions))
            reporter.say(f"{entry.name} {name}: {predictions.metrics(part.labels()).accuracy:.1%}")


def _split(config: ExperimentConfig, results: Results, workers: int) -> SplitDataset:
    """The run's splits, without the images that it skipped: training images are not decoded here.

    Raises:
        DataError: an image that the run skipped is readable.
    """
    split = split_dataset(config, workers)
    while True:
        samples = [sample for part in split.splits.by_name.values() for sample in part.samples]
        skipped = [sample for sample in samples if sample.id in results.excluded]
        if not skipped:
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


def recorded_config(recorded: dict[str, Any], dataset: str | None, data_root: str | None) -> ExperimentConfig:
    """What evaluation needs of the configuration, from the results: config.toml may have been edited.

    Raises:
        ConfigError: a recorded value is invalid, or the path of the image folder is unknown.
    """
    if dataset is None and recorded["dataset"] not in ("digits", "flowers102"):
        raise ConfigError(
            f"The results record the image folder {recorded['dataset']!r} without its path; "
            "give it with --dataset imagefolder:PATH."
        )
    return ExperimentConfig(
        dataset=dataset or recorded["dataset"],
        data_root=data_root or ExperimentConfig.data_root,
        split=recorded["split"],
        subset=recorded["subset"],
        seed=recorded["seeds"][0],
        precision=recorded.get("precision", "fp32"),
        recipe=from_record(Recipe, recorded["recipe"]),
    )


def _load(network: Network, folder: RunFolder, artifact: Artifact, n_classes: int) -> None:
    """Load a checkpoint, if it is the recorded one and fits the network."""
    path = folder.artifact_file(artifact.path)
    state, digest = read_state(path)
    if digest != artifact.sha256:
        raise WeightsError(
            f"The checkpoint {path} must have the SHA-256 that the results record, but it has another; "
            "put it back or train again."
        )
    shapes = state_shapes(n_classes)
    if {n: tuple(t.shape) for n, t in state.items()} != shapes:
        raise WeightsError(
            f"The checkpoint {path} must hold ResNet-18's parameters and buffers, but it does not; put it "
            "back or train again."
        )
    network.load_state_dict(state)
