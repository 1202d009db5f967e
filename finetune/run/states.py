"""Training states that a run keeps, so that the epoch after one can be trained again later."""

from __future__ import annotations

import hashlib

import safetensors.torch

from finetune.config.experiment import ExperimentConfig, Variant
from finetune.errors import RunFolderError
from finetune.run.folder import RunFolder
from finetune.run.records import Json, run_stem
from finetune.training.checkpoint import state_of
from finetune.training.record import Training
from finetune.training.trainer import Trainer
from grader.commitments import drawn_epochs


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
        state = {name: tensor.contiguous() for name, tensor in state_of(trainer).items()}
        folder.write_state(stem, epochs[-1].epoch, safetensors.torch.save(state))


def kept_states(
    training: Training, folder: RunFolder, variant: Variant, seed: int, config: ExperimentConfig
) -> list[Json]:
    """The `states` of a run in the results.

    Raises:
        RunFolderError: a file is gone.
    """
    chain, stem = [e.commitment for e in training.epochs], run_stem(variant.name, seed)
    drawn = drawn_epochs(config.keep_states, config.epochs_of(variant), chain)
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
