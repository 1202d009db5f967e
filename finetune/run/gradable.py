"""What the grader will accept, asked before training."""

from __future__ import annotations

from typing import Any

import numpy as np

from finetune.config.experiment import ExperimentConfig
from finetune.data.splits import Splits
from finetune.errors import ConfigError, DataError
from finetune.run.records import Document, predictions_csv
from finetune.training.record import Predictions
from grader.errors import UnusableError
from grader.reading.strict_json import MAX_VALUES
from grader.submission.predictions import parse_predictions

VALUES_PER_RUN = 450
"""JSON values of a run without its epochs, rounded up: ResNet-18's 62 parameters take 372 of them."""

VALUES_PER_EPOCH = 22


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
            raise DataError(
                "Names of images and their folders must not contain line breaks, control characters or "
                f"spreadsheet formulas, but the grader could not read the predictions ({error.first}); "
                "rename the file or its folder."
            ) from error
