"""Predictions made afresh from a run's checkpoints: evidence that needs no trust in its numbers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from finetune.config.experiment import GROUPS, Variant
from finetune.config.presets import load_preset
from finetune.data.prepare import divide, make_ready
from finetune.data.sources import WHOLE
from finetune.errors import ConfigError, DataError, RunFolderError, WeightsError
from finetune.network.network import Network
from finetune.network.resnet18 import build, state_shapes
from finetune.network.weights import inside, read_state
from finetune.run import environment
from finetune.run import folder as results
from finetune.run.experiment import run_stem
from finetune.system import host
from finetune.system.console import Reporter
from finetune.system.files import write_atomically
from finetune.training.evaluate import evaluate
from finetune.training.features import FrozenPrefix
from finetune.training.precision import choose_precision


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
        reporter: told the accuracies.
        dataset: the data set to use in place of the run's own, where an image folder has moved.
        data_root: likewise for downloads.
        device: `auto`, `cpu` or `cuda`.
        threads: CPU threads; None means OMP_NUM_THREADS, else one per core.

    Raises:
        FinetuneError: no results, other images than the run's, or a checkpoint that is not the recorded one.
    """
    record = read_results(run)
    config = load_preset(str(run / "config.toml"))
    config = dataclasses.replace(
        config, dataset=dataset or config.dataset, data_root=data_root or config.data_root
    )
    target = environment.choose_device(device)
    threads = host.choose_threads(threads)
    torch.set_num_threads(threads)
    divided, images, _ = make_ready(config, divide(config, threads), reporter, threads, target)
    splits = divided.splits
    try:
        precision = choose_precision(config.precision, target, config.recipe.image_size)
    except ConfigError:
        precision = "fp32"
        reporter.say(f"Trained in {config.precision}, evaluated in fp32: losses differ by rounding.")
    for name in ("val", "test"):
        recorded = record["dataset"]["splits"][name]["fingerprint"]
        if splits.by_name[name].fingerprint != recorded:
            raise DataError(
                f"The images must be those of the run, but the {name} split has another fingerprint than "
                f"{run / 'results.json'} records; name the right ones with --dataset or --data-root."
            )
    for entry in record["runs"]:
        if entry["artifacts"] is None:
            continue
        variant = Variant(name=entry["variant"], init="random", train=GROUPS)
        network = build(variant, len(divided.dataset.classes), 0, None)
        network.to(target).to(memory_format=torch.channels_last)
        _load(network, run, entry["artifacts"]["checkpoint"], len(divided.dataset.classes))
        prefix = FrozenPrefix(network, config.recipe, precision)
        for name, (source, labels) in images.held_out.items():
            predictions = evaluate(network, prefix.held_out(name, source, WHOLE), labels, precision)
            stem = run_stem(variant.name, entry["seed"])
            content = results.predictions_csv(splits.by_name[name].samples, predictions)
            write_atomically(output / f"{stem}-{name}.csv", content)
            reporter.say(f"{stem} {name}: {predictions.metrics(labels.numpy()).accuracy:.1%}")


def read_results(run: Path) -> dict[str, Any]:
    """A run folder's results.

    Raises:
        RunFolderError: there are none, or they do not fit the schema.
    """
    try:
        record = json.loads((run / "results.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(f"{run} must be a run folder with a results.json, but: {error}.") from error
    problem = results.schema_problem(record)
    if problem:
        raise RunFolderError(f"{run / 'results.json'} must fit the results schema, but {problem}.")
    return dict(record)


def _load(network: Network, run: Path, artifact: dict[str, str], n_classes: int) -> None:
    path = inside(run, artifact["path"])
    state, digest = read_state(path)
    if digest != artifact["sha256"]:
        raise WeightsError(
            f"The checkpoint {path} must have the SHA-256 that the results record; it does not."
        )
    shapes = state_shapes(n_classes)
    if {n: tuple(t.shape) for n, t in state.items()} != shapes:
        raise WeightsError(
            f"The checkpoint {path} must hold ResNet-18's parameters and buffers; it does not."
        )
    network.load_state_dict(state)
