"""What the grader accepts: asked before training, and of results that are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np

from finetune.config.experiment import ExperimentConfig
from finetune.data.splits import Splits
from finetune.errors import ConfigError, DataError, RunFolderError
from finetune.run.records import Document, predictions_csv
from finetune.training.record import Predictions
from grader import load
from grader.errors import UnusableError
from grader.files import read_bytes
from grader.predictions import parse_predictions
from grader.record import results_from
from grader.strict_json import MAX_BYTES, MAX_VALUES

VALUES_PER_RUN = 450
"""JSON values of a run without its epochs, rounded up: ResNet-18's 62 parameters take 372 of them."""

VALUES_PER_EPOCH = 22


def read_results(file: Path) -> Document:
    """The content of a results file.

    Raises:
        RunFolderError: the grader would not accept it.
    """
    try:
        content = read_bytes(file, file.name, MAX_BYTES)
        document = load.check(content, file.name)
        for run in results_from(document).runs:
            if run.best_epoch is not None and run.best is None:
                raise UnusableError([f"{run.name} has no epoch {run.best_epoch}"])
    except UnusableError as error:
        raise RunFolderError(
            f"{file} must be a results file that finetune wrote, but "
            f"{error.problems[0].rstrip('.')}; remove it to train those runs again."
        ) from error
    return cast("Document", document)


def n_values_of(value: Any) -> int:
    """The number of JSON values in a document as the grader counts them: objects and arrays count too."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(n_values_of, parts))


def require_gradable(
    document: Document, config: ExperimentConfig, splits: Splits, n_values_of_trials: int = 0
) -> None:
    """Refuse before training what the grader would refuse to read afterwards.

    Raises:
        ConfigError: results.json would have more values than the grader reads.
        DataError: the name of an image is one that the grader does not accept.
    """
    n_runs, n_excluded = len(config.variants) * config.seeds, len(document["dataset"]["excluded"])
    epochs = config.seeds * sum(map(config.epochs_of, config.variants))
    n_values = n_values_of(document) + n_values_of_trials
    n_values += n_runs * VALUES_PER_RUN + epochs * VALUES_PER_EPOCH
    if n_values > MAX_VALUES:
        raise ConfigError(
            f"A results file may contain at most {MAX_VALUES:,} values, but {n_runs} runs of {epochs:,} "
            f"epochs and {n_excluded:,} excluded files give about {n_values:,}; use fewer --seeds or "
            "--epochs, or remove files that are not images."
        )
    for split in (splits.val, splits.test):
        n = len(split.samples)
        example = predictions_csv(
            split.samples, Predictions(np.zeros(n, np.int64), np.zeros(n, np.float32), np.ones(n, np.float32))
        )
        try:
            parse_predictions(example, "predictions", {n}, len(split.class_counts))
        except UnusableError as error:
            problem = error.problems[0].rstrip(".")
            raise DataError(
                "Names of images and their folders must not contain line breaks, control characters or "
                f"spreadsheet formulas, but the grader could not read the predictions ({problem}); rename "
                "the file or its folder."
            ) from error
