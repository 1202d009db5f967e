"""The predictions that a run has stored for its validation and test images."""

from __future__ import annotations

from typing import Any

from finetune.errors import ConfigError, RunFolderError
from finetune.run.folder import RunFolder
from grader.predictions import Predictions, header_of, parse_predictions
from grader.record import SPLITS, Results, Run


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
    content = folder.read_artifact({"path": artifact.path, "sha256": artifact.sha256})
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
