"""What an experiment is made of, which must be the same when it is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune.errors import RunFolderError
from finetune.run import records
from finetune.run.records import Json


def identity_of(results: Any) -> Json:
    """The parts of results that must be the same when an experiment is resumed."""
    return {part: results[part] for part in ("config", "weights")} | {
        "dataset": images_of(results["dataset"])
    }


def images_of(dataset: Any) -> Any:
    """The `dataset` object without near-duplicates, which another build of a decoder may hash differently."""
    if not isinstance(dataset, dict):
        return dataset  # a damaged file's, which differs from what a run has
    resplits = dataset.get("resplits")
    own = resplits and [{key: split[key] for key in ("seed", "splits")} for split in resplits]
    return {k: v for k, v in dataset.items() if k != "near_duplicates"} | ({"resplits": own} if own else {})


def difference(before: Any, now: Any, path: str = "") -> str:
    """Where two JSON values first differ, in words; empty if they do not."""
    if isinstance(before, dict) and isinstance(now, dict) and before.keys() == now.keys():
        parts = (difference(before[k], now[k], f"{path}.{k}" if path else k) for k in before)
        return next(filter(None, parts), "")
    return "" if before == now else f"{path} was {records.short(before)} and is {records.short(now)}"


def require_same(began: Any, now: Any, folder: Path) -> None:
    """Check that results are of the experiment that a run folder began with.

    Raises:
        RunFolderError: images, weights or configuration differ.
    """
    found = difference(identity_of(began), identity_of(now))
    if found:
        raise RunFolderError(
            f"A run must be resumed with the same images, weights and settings, but in {folder} "
            f"{found}; restore them or start a new run."
        )
