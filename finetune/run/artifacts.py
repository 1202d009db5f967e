"""The files that a run leaves: predictions and network of its best epoch, and the training states it keeps.

From a kept state, the epoch after it can be trained again later.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import safetensors.torch

from finetune.data.splits import Splits
from finetune.errors import ConfigError, RunFolderError
from finetune.run.folder import ARTIFACTS, RunFolder
from finetune.run.metadata import with_metadata
from finetune.run.records import Json, predictions_csv
from finetune.training.checkpoint import Checkpoints, state_of
from finetune.training.record import Training
from finetune.training.trainer import Trainer
from grader.submission.commitments import drawn_epochs
from grader.submission.predictions import Predictions, header_of, parse_predictions
from grader.submission.record import SPLITS, Results, Run


def write_artifacts(
    folder: RunFolder,
    stem: str,
    splits: Splits,
    training: Training,
    checkpoints: Checkpoints,
    metadata: dict[str, str],
) -> Json | None:
    """Write predictions and checkpoint of the chosen epoch; the `artifacts` object of the run.

    Args:
        folder: of the run.
        stem: name of the run.
        splits: of the experiment.
        training: has ended.
        checkpoints: of the run.
        metadata: for the checkpoint.

    Raises:
        RunFolderError: a file cannot be written, or the chosen network is missing.
        UnusableError: the grader would not accept the predictions, which is a bug.
    """
    if training.best_epoch is None or not folder.writes:
        return None
    files = {"checkpoint": with_metadata(checkpoints.best(training.best_epoch), metadata)}
    for name, predictions in training.best_predictions.items():
        split = splits.by_name[name]
        content = predictions_csv(split.samples, predictions)
        parse_predictions(content, name, {len(split.samples)}, len(split.class_counts))
        files[f"{name}_predictions"] = content
    return {name: folder.write_artifact(stem, name, files[name]) for name in ARTIFACTS}


def keep_state(trainer: Trainer, folder: RunFolder, stem: str, n_states: int) -> None:
    """After an epoch: keep the state if the epoch is one of those that the run's commitments draw.

    Args:
        trainer: after an epoch.
        folder: its run folder.
        stem: name of the run.
        n_states: how many states the run keeps.

    Raises:
        RunFolderError: the file cannot be written.
    """
    epochs = trainer.training.epochs
    drawn = drawn_epochs(n_states, trainer.recipe.epochs, [e.commitment for e in epochs])
    if folder.writes and epochs[-1].epoch in drawn:
        state = state_of(trainer)
        folder.write_state(stem, epochs[-1].epoch, safetensors.torch.save(state))


def kept_states(training: Training, folder: RunFolder, stem: str, n_states: int, epochs: int) -> list[Json]:
    """The `states` of a run in the results.

    Args:
        training: has ended.
        folder: its run folder.
        stem: name of the run.
        n_states: how many states the run keeps.
        epochs: that it was to train.

    Raises:
        RunFolderError: a file is gone.
    """
    drawn = drawn_epochs(n_states, epochs, [e.commitment for e in training.epochs])
    return [{"epoch": epoch, **_artifact(folder, stem, epoch)} for epoch in drawn if folder.writes]


def _artifact(folder: RunFolder, stem: str, epoch: int) -> Json:
    path = f"states/{stem}-epoch{epoch}.safetensors"
    try:
        with folder.artifact_file(path).open("rb") as file:
            return {"path": path, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    except OSError as error:
        raise RunFolderError(
            f"{folder.path / path} must hold a training state of this run, but it cannot be read "
            f"({error}); start a new run."
        ) from error


def read_predictions(folder: RunFolder, results: Results, run: Run, split: str) -> Predictions:
    """The predictions of a run's best epoch.

    Args:
        folder: of the run.
        results: its results.
        run: with a best epoch.
        split: `val` or `test`.

    Raises:
        ConfigError: another split.
        RunFolderError: the file is missing or not the recorded one.
    """
    if split not in SPLITS:
        raise ConfigError(f"split must be val or test, but {split!r} was given.")
    if run.artifacts is None or run.best is None:
        raise RunFolderError(f"{run.name} finished no epoch, so it has no predictions; choose another run.")
    artifact = run.artifacts.predictions(split)
    content = folder.read_artifact(dataclasses.asdict(artifact))
    counts, header = {run.best.on(split).n_samples}, header_of(results.schema_version)
    return parse_predictions(content, artifact.path, counts, len(results.classes), header)


def rows_of(folder: RunFolder, results: Results, run: Run, split: str) -> list[dict[str, Any]]:
    """The same with a dictionary for each image, and with names of classes.

    Raises:
        FinetuneError: as `read_predictions`.
    """
    found, names = read_predictions(folder, results, run, split), results.classes
    confidence = [None] * len(found.sample_ids) if found.confidence is None else found.confidence.tolist()
    columns = {
        "sample_id": found.sample_ids,
        "label": [names[i] for i in found.labels],
        "predicted": [names[i] for i in found.predicted],
        "correct": found.correct.tolist(),
        "nll": found.nll.tolist(),
        "confidence": confidence,
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
