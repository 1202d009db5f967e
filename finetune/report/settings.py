"""Settings, images, weights and machines in words that people know, instead of the results' JSON paths."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from grader.findings import counted, rate_text

DASH = "\N{EN DASH}"
SPLITS = {"train": "training", "val": "validation", "test": "test"}
SHOWN_OF_HASH = 16


class Setting(NamedTuple):
    """What a value is, and the option of `finetune train` that sets it; empty if none does."""

    words: str
    option: str = ""


VARIANTS = "config.variants."

SETTINGS = {
    "config.preset": Setting("preset", "--preset"),
    "config.dataset": Setting("data set", "--dataset"),
    "config.split": Setting("split", "--split"),
    "config.subset": Setting("images per class in each split, at most", "--subset"),
    "config.weights": Setting("pretrained weights", "--weights"),
    "config.seeds": Setting("seeds", "--seed, --seeds"),
    "config.split_seed": Setting("seed of the split", "--split-seed"),
    "config.seed_from": Setting("seed that a course prescribes", "--seed-from"),
    "config.resplit": Setting("a split of its own for each seed", "--resplit"),
    "config.tune": Setting("tuning of the learning rates", "--tune"),
    "config.recipe.epochs": Setting("epochs", "--epochs"),
    "config.recipe.batch_size": Setting("batch size", "--batch-size"),
    "config.recipe.lr": Setting("peak learning rate", "--lr"),
    "config.recipe.momentum": Setting("momentum"),
    "config.recipe.weight_decay": Setting("weight decay"),
    "config.recipe.warmup_epochs": Setting("epochs of warm-up"),
    "config.recipe.image_size": Setting("image size, pixels", "--image-size"),
    "config.recipe.crop_area_min": Setting("smallest random crop, share of the area"),
    "config.recipe.flip_probability": Setting("probability of a flip"),
    "config.recipe.statistics": Setting("BatchNorm statistics in evaluation"),
    "config.precision": Setting("precision", "--precision"),
    "config.cache_views": Setting("cached views of each image", "--cache-views"),
    "config.near_duplicates": Setting("near-duplicates across splits", "--near-duplicates"),
    "config.keep_states": Setting("training states kept", "--keep-states"),
    "config.processes": Setting("processes that share each batch", "--parallel data"),
    "dataset.classes": Setting("classes"),
    "dataset.near_duplicates.max_distance": Setting("distance up to which images are near-duplicates"),
    "dataset.near_duplicates.n_compared": Setting("images compared for near-duplicates"),
    "dataset.near_duplicates.n_not_compared": Setting("images too uniform to be compared"),
    "dataset.near_duplicates.n_val": Setting("near-duplicates among validation images"),
    "dataset.near_duplicates.n_test": Setting("near-duplicates among test images"),
    "dataset.excluded": Setting("excluded files"),
    "dataset.notes": Setting("notes on the images"),
    "weights.source": Setting("file of the weights"),
    "weights.sha256": Setting("SHA-256 of the weights"),
    "weights.dropped": Setting("entries of the weights left out"),
    "environment.python": Setting("Python"),
    "environment.torch": Setting("PyTorch"),
    "environment.torchvision": Setting("torchvision"),
    "environment.numpy": Setting("NumPy"),
    "environment.pillow": Setting("Pillow"),
    "environment.cuda": Setting("CUDA"),
    "environment.platform": Setting("operating system"),
    "environment.device": Setting("device", "--device"),
    "environment.device_name": Setting("processor or GPU"),
    "environment.vector_instructions": Setting("vector instructions"),
    "environment.cpu_cores": Setting("CPU cores"),
    "environment.threads": Setting("threads", "--threads"),
    "tool.version": Setting("version of finetune"),
    "tool.git_commit": Setting("commit of finetune"),
    "tool.git_dirty": Setting("uncommitted changes in finetune"),
    "timings.start_seconds": Setting("start-up, seconds"),
    "timings.download_seconds": Setting("download, seconds"),
    "timings.decode_seconds": Setting("decoding, seconds"),
    "timings.total_seconds": Setting("whole job, seconds"),
}

for _key, _words in SPLITS.items():
    SETTINGS |= {
        f"dataset.splits.{_key}.n_samples": Setting(f"{_words} images"),
        f"dataset.splits.{_key}.class_counts": Setting(f"{_words} images of each class"),
        f"dataset.splits.{_key}.fingerprint": Setting(f"fingerprint of the {_words} images"),
    }

OF_VARIANT = {
    "init": Setting("starts from"),
    "train": Setting("trains"),
    "lr": Setting("peak learning rate of its own", "--lr"),
    "epochs": Setting("epochs of its own"),
    "norm": Setting("BatchNorm statistics of frozen layers"),
    "head": Setting("takes its head from"),
}

REPEATED = ("tool.name", "dataset.name", "dataset.resplits", "dataset.near_duplicates.pairs", "weights.kind")
"""What other settings say already, or is too long for a table."""

WITHOUT = {
    "config.split": "the default",
    "config.subset": "all",
    "config.tune": "off",
    "config.cache_views": "off",
}
"""How null reads; elsewhere as "none"."""


def setting(path: str) -> Setting | None:
    """What stands at a path of the results such as `config.recipe.lr`; None if it is not worth a line.

    A key of a later version of the results is shown as its name in words.
    """
    if path in REPEATED:
        return None
    if path.startswith(VARIANTS):
        name, _, key = path.removeprefix(VARIANTS).rpartition(".")
        known = OF_VARIANT.get(key, Setting(key.replace("_", " ")))
        return Setting(f"{name}: {known.words}", known.option)
    return SETTINGS.get(path, Setting(path.rpartition(".")[2].replace("_", " ")))


def value_text(path: str, value: Any) -> str:
    """A value as the rest of the page would show it."""
    key = path.rpartition(".")[2]
    if value is None:
        return WITHOUT.get(path, "none")
    if key == "excluded":
        return counted(len(value), "file")
    if key == "class_counts":
        low, high = min(value, default=0), max(value, default=0)
        return f"{low:,}" if low == high else f"{low:,} to {high:,}"
    if isinstance(value, list):
        return (" " if key == "notes" else ", ").join(map(str, value)) or "none"
    if key in ("fingerprint", "sha256", "git_commit"):
        return str(value)[:SHOWN_OF_HASH]
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}" if key.endswith("_seconds") else rate_text(value)
    return f"{value:,}" if key.startswith("n_") else str(value)


def flat(part: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as one, with paths such as `recipe.lr` for keys; variants by name."""
    found: dict[str, Any] = {}
    for key, value in part.items():
        if key == "variants":
            value = {row["name"]: {k: v for k, v in row.items() if k != "name"} for row in value}
        path = f"{prefix}.{key}" if prefix else key
        found |= flat(value, path) if isinstance(value, Mapping) and value else {path: value}
    return found


def shown(value: Any) -> str:
    """A value as trackers get it, which know it by its path: as exactly as the results have it."""
    if value is None:
        return "none"
    if isinstance(value, list):
        return ", ".join(map(shown, value)) or "none"
    return json.dumps(value) if isinstance(value, bool) else str(value)
