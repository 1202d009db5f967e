"""A few epochs of a run or a trial trained again, from its start or from a state that a run kept."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import safetensors.torch

from finetune.config.experiment import ExperimentConfig
from finetune.data.datasets import SPLIT_NAMES
from finetune.distributed.world import SingleProcess
from finetune.errors import ConfigError, DataError, RunFolderError
from finetune.evidence.budget import Budget, DoesNotFit, Item, StepEnded, in_turn, left_out
from finetune.evidence.repeats import repeats
from finetune.inference.trained import precision_of
from finetune.network.network import fingerprint
from finetune.network.weights import NAMED_WEIGHTS
from finetune.run import environment, fit
from finetune.run.folder import RunFolder
from finetune.run.prepare import Prepared, memory_errors, prepare
from finetune.run.recorded import recorded_config, recorded_variant, require_same_images
from finetune.run.records import Json
from finetune.system import host
from finetune.system.console import Reporter
from finetune.system.files import write_atomically
from finetune.training.checkpoint import load_state
from finetune.training.record import Epoch, Training, best_epoch
from finetune.training.trainer import Trainer
from grader.findings import rate_text
from grader.submission.load import Submission
from grader.submission.record import Results, run_name

MOST_THREADS_PER_CORE = 4
"""The recorded threads round as the run did, even with fewer cores; a claim of a million would never end."""


class _Enough(Exception):  # noqa: N818 - no error
    """Enough epochs have been trained."""


def replay_run(
    run: Path,
    output: Path,
    reporter: Reporter,
    *,
    passages: Sequence[tuple[str, int, int]],
    trials: Sequence[tuple[int, int]] = (),
    seconds: float = math.inf,
    dataset: str | None = None,
    data_root: str | None = None,
    weights: str | None = None,
    device: str = "auto",
) -> None:
    """Train epochs of a run again and write what they gave, as JSON.

    Args:
        run: run folder.
        output: file: the machine; for each passage, `run`, `trial` (None if it is of a run), `first`,
            `initial_sha256` (None unless it begins with the first epoch) and `epochs`, as in the results;
            `omitted`, the passages left out, without the latter two; and `repeats`, the seconds of further
            passes over the first epoch of a run of each variant, in rounds.
        reporter: receives the epochs.
        passages: names of runs, each with the first epoch to train and how many.
        trials: indices in tuning.trials, each with how many epochs to train from its start.
        seconds: to spend on training; passages that would take longer are left out, but never all.
        dataset: the data set; None means the recorded one, which must not be an image folder.
        data_root: folder for downloads; None means `data`.
        weights: the pretrained weights; None means the recorded ones, which must be `imagenet` or `bundled`.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.

    Raises:
        FinetuneError: no results, other images or weights than the run's, or a state that does not fit.
    """
    folder = RunFolder(run)
    submission = folder.submission()
    document = submission.document
    runs = {run_name(entry["variant"], entry["seed"]): entry for entry in document["runs"]}
    tried = {index: document["tuning"]["trials"][index] for index, _ in trials}
    names = {runs[name]["variant"] for name, _, _ in passages} | {t["variant"] for t in tried.values()}
    config = _config(folder, submission, names, dataset, data_root, weights, device)
    prepared = prepare(config, reporter, SingleProcess())
    _require_same(submission.results, prepared)
    budget = Budget(seconds)
    found: list[Json] = []
    omitted: list[Json] = []
    with memory_errors(config):
        for passage in in_turn(passages, trials):
            try:
                found.append(_trained(prepared, folder, runs, tried, passage, budget, reporter))
                budget.is_used = True
            except DoesNotFit:
                omitted.append(left_out(passage))
        replayed = [runs[p["run"]] for p in found if p["trial"] is None and p["first"] == 1]
        again = repeats(replayed, lambda entry: _of_run(prepared, entry, budget, 1))
    record: Json = {"environment": prepared.record["environment"], "precision": config.precision}
    record |= {"passages": found, "omitted": omitted, "repeats": again}
    write_atomically(output, json.dumps(record).encode())


def _trained(
    prepared: Prepared,
    folder: RunFolder,
    runs: Mapping[str, Json],
    tried: Mapping[int, Json],
    passage: Item,
    budget: Budget,
    reporter: Reporter,
) -> Json:
    """Train a passage of one of the runs, by name, or of one of the trials, by index."""
    if len(passage) == 2:
        return _trial(prepared, tried, *passage, budget, reporter)
    name, first, count = passage
    return _replay(prepared, folder, runs[name], first, count, budget, reporter)


def _config(
    folder: RunFolder,
    submission: Submission,
    names: Collection[str],
    dataset: str | None,
    data_root: str | None,
    weights: str | None,
    device: str,
) -> ExperimentConfig:
    """The configuration of the run with the variants of these names, from the results, on this machine.

    Raises:
        ConfigError: the run cannot be replayed, or needs an option.
    """
    results = submission.results
    if results.processes > 1:
        raise ConfigError(
            "Only a run in which one process trained each network can be replayed, but here "
            f"{results.processes} processes divided each batch; replay another run."
        )
    rows = [row for row in results.variants if row.name in names]
    pretrained = any(row.init == "pretrained" for row in rows)
    kind: str | None = results.weights["kind"] if results.weights else None
    if pretrained and weights is None and kind not in NAMED_WEIGHTS:
        raise ConfigError(
            "The results record pretrained weights of a file without its path; name the file with --weights."
        )
    headed = next((row.name for row in rows if row.head), None)
    if headed:
        raise ConfigError(
            "Only a run whose start follows from its seed and the weights can be replayed, but the head of "
            f"{headed} comes from another variant; replay another run."
        )
    config = recorded_config(folder, results, submission.document["config"], dataset, data_root)
    target = environment.choose_device(device)
    return dataclasses.replace(
        config,
        variants=tuple(map(recorded_variant, rows)),
        precision=precision_of(config.precision, target, config.recipe.image_size),
        weights=weights or kind or ExperimentConfig.weights,
        device=device,
        threads=min(results.environment["threads"], MOST_THREADS_PER_CORE * host.cores()),
        on_bad_image="skip" if results.excluded else "fail",
    )


def _require_same(results: Results, prepared: Prepared) -> None:
    """Check that images and weights are the run's.

    Raises:
        DataError: they are not.
    """
    require_same_images(prepared.split, results, SPLIT_NAMES)
    recorded = results.weights and results.weights["sha256"]
    if prepared.weights and prepared.weights.sha256 != recorded:
        raise DataError(
            "The pretrained weights must be those of the run, but they have another SHA-256 than the results "
            "record; name the right ones with --weights."
        )


def _replay(
    prepared: Prepared,
    folder: RunFolder,
    entry: Json,
    first: int,
    count: int,
    budget: Budget,
    reporter: Reporter,
) -> Json:
    """Train `count` epochs of a run, from epoch `first` on."""
    trainer, start, step_ended = _of_run(prepared, entry, budget, count)
    if first > 1:
        _restore(trainer, folder, entry, first - 1)
    epochs = _epochs(trainer, step_ended, count, run_name(entry["variant"], entry["seed"]), reporter)
    return {**_passage(entry, start, first, epochs), "trial": None}


def _trial(
    prepared: Prepared,
    tried: Mapping[int, Json],
    index: int,
    count: int,
    budget: Budget,
    reporter: Reporter,
) -> Json:
    """Train the first epochs of a trial, which has no test images."""
    entry = tried[index]
    if entry["for_seed"] is not None:
        prepared = prepared.of_seed(entry["for_seed"])
    images = dataclasses.replace(prepared.images, held_out={"val": prepared.images.held_out["val"]})
    prepared = dataclasses.replace(prepared, images=images)
    trainer, start, step_ended = _trainer(prepared, entry, entry["epochs"], budget, count)
    name = f"{entry['variant']}, trial at {rate_text(entry['learning_rate'])}"
    epochs = _epochs(trainer, step_ended, count, name, reporter)
    return {**_passage(entry, start, 1, epochs), "trial": index}


def _of_run(prepared: Prepared, entry: Json, budget: Budget, count: int) -> tuple[Trainer, Json, StepEnded]:
    prepared = prepared.of_seed(entry["seed"])
    (variant,) = (v for v in prepared.config.variants if v.name == entry["variant"])
    return _trainer(prepared, entry, prepared.config.epochs_of(variant), budget, count)


def _passage(entry: Json, start: Json, first: int, epochs: Sequence[Epoch]) -> Json:
    return {
        "run": run_name(entry["variant"], entry["seed"]),
        "first": first,
        "initial_sha256": start["initial_sha256"],
        "epochs": [dataclasses.asdict(epoch) for epoch in epochs],
    }


def _trainer(
    prepared: Prepared, entry: Json, epochs: int, budget: Budget, count: int
) -> tuple[Trainer, Json, StepEnded]:
    """A trainer at the start of a recorded run or trial, what the results say of that start, and its budget.

    Args:
        prepared: the experiment.
        entry: of the run or trial.
        epochs: that it was to be trained for.
        budget: within which to train.
        count: how many of the epochs are trained.
    """
    (variant,) = (v for v in prepared.config.variants if v.name == entry["variant"])
    network, start, _ = fit.begin(prepared, variant, entry["seed"], entry["learning_rate"])
    n_steps = count * math.ceil(len(prepared.images.train) / prepared.config.recipe.batch_size)
    passage = budget.passage(n_steps)
    cache = prepared.features_of(start["variant"], start["frozen_sha256_before"])
    trainer = fit.trainer_of(prepared, epochs, start, network, cache, interrupt=passage.interrupt)
    return trainer, start, passage.step_ended


def _epochs(
    trainer: Trainer, step_ended: StepEnded, count: int, name: str, reporter: Reporter
) -> list[Epoch]:
    """The next epochs of a training, at most `count`; fewer if it ends or its loss is no longer finite."""
    replayed: list[Epoch] = []

    def epoch_ended(epoch: Epoch) -> None:
        replayed.append(epoch)
        reporter.say(f"{name}, epoch {epoch.epoch} replayed")
        if len(replayed) == count:
            raise _Enough

    with contextlib.suppress(_Enough):
        trainer.run(epoch_ended, step_ended)
    return replayed


def _restore(trainer: Trainer, folder: RunFolder, entry: Json, epoch: int) -> None:
    """Bring a fresh trainer to the state that a run kept after an epoch.

    Raises:
        RunFolderError: the file is not the recorded state, or its network is not the one committed to.
    """
    (artifact,) = (state for state in entry["states"] if state["epoch"] == epoch)
    try:
        load_state(safetensors.torch.load(folder.read_artifact(artifact)), trainer)
    except (safetensors.SafetensorError, ValueError, RuntimeError) as error:
        raise RunFolderError(
            f"{artifact['path']} must be a training state of this network, but {error}; train again."
        ) from error
    epochs = [Epoch.read(row) for row in entry["epochs"][:epoch]]
    if fingerprint(trainer.network.state_dict()) != epochs[-1].weights_sha256:
        raise RunFolderError(
            f"{artifact['path']} must hold the network after epoch {epoch}, but its hash is not the one that "
            "the results record for that epoch."
        )
    steps, images = epoch * trainer.steps_per_epoch, epoch * len(trainer.images.train)
    trainer.resume(Training(epochs=epochs, steps=steps, images=images, best_epoch=best_epoch(epochs)))
