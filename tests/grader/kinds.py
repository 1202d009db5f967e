"""Honest runs of every kind that finetune writes, drawn at random: what `test_false_alarms.py` simulates."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grader.checks.origin import KNOWN_WEIGHTS
from grader.reading.truth import Truth
from grader.submission import commitments
from tests.grader import honest
from tests.grader.honest import Size, commit, images_of, sha, write_run
from tests.grader.tuned import tune

ROWS: dict[str, tuple[str, Any]] = {
    "A": ("random", "all"),
    "B": ("pretrained", "all"),
    "C": ("pretrained", ["layer4", "fc"]),
    "fc": ("pretrained", ["fc"]),
    "layer3-up": ("pretrained", ["layer3", "layer4", "fc"]),
    "layer1-up": ("pretrained", ["layer1", "layer2", "layer3", "layer4", "fc"]),
    "LP-FT": ("pretrained", "all"),
    "A3": ("random", "all"),
    "C-adapt": ("pretrained", ["layer4", "fc"]),
}
DIGITS = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)

Kind = Callable[[np.random.Generator, dict[str, Any]], None]


def draw(rng: np.random.Generator, patch: pytest.MonkeyPatch) -> Size:
    """An experiment of some size and kind, whose networks are more or less skilled and more or less alike."""
    rows = ["A", "B", "C"]
    if rng.random() < 0.4:
        rows = [name for name in ROWS if rng.random() < 0.5] or ["A"]
        rows = ["fc", *(name for name in rows if name != "fc")] if "LP-FT" in rows else rows
    epochs = int(rng.choice([1, 1, 2, 3, 4, 5, 6, 7]))
    patch.setattr(honest, "VARIANTS", {name: ROWS[name] for name in rows})
    patch.setattr(honest, "SKILL", {name: _skill(name, rng) for name in rows})
    patch.setattr(honest, "SHARED", float(rng.uniform(1.0, 2.5)))
    patch.setattr(honest, "PEAK", float(10 ** rng.uniform(-6, 1)))
    patch.setattr(honest, "WARMUP_EPOCHS", float(rng.choice([0, 0.3, 0.5, 1, 5])))
    patch.setattr(honest, "EPOCH_SECONDS", {n: float(10 ** rng.uniform(-1, 3)) for n in rows})
    own: dict[str, dict[str, Any]] = {"LP-FT": {"head": "fc"}, "A3": {"epochs": 3 * epochs}}
    own["C-adapt"] = {"norm": "adapt"}
    if rng.random() < 0.2:
        for name in rows:
            own.setdefault(name, {})["lr"] = float(10 ** rng.uniform(-5, 0))
    patch.setattr(honest, "OWN", own)
    n_classes = int(rng.choice([2, 2, 3, 5, 10, 40, 102]))
    n_train = _between(rng, max(20, n_classes), 1500)
    n_val, n_test = (_between(rng, max(10, n_classes), 900) for _ in range(2))
    seeds = range(int(rng.integers(1, 4)))
    if rng.random() < 0.3:
        seeds = rng.choice(2**31, len(seeds), replace=False).tolist()
    size = Size(
        n_classes, n_train, n_val, n_test, epochs, tuple(seeds), int(rng.choice([1, 8, 32, 256, 4096]))
    )
    if rng.random() < 0.1:
        size = _digits(size, None if rng.random() < 0.3 else int(rng.integers(2, 60)))
    return dataclasses.replace(
        size,
        resplit=size.counts is None and bool(rng.random() < 0.2),
        uneven=float(rng.choice([0, 0, 1, 3])),
        continued=bool(rng.random() < 0.05),
        bf16=bool(rng.random() < 0.5),
        collapsed=frozenset(name for name in rows if rng.random() < 0.5)
        if rng.random() < 0.2
        else frozenset(),
        failed={
            (name, seed): int(rng.integers(0, own.get(name, {}).get("epochs", epochs)))
            for name in rows
            for seed in seeds
            if rng.random() < 0.3
        }
        if rng.random() < 0.2
        else {},
    )


def _between(rng: np.random.Generator, low: int, high: int) -> int:
    """A number of images; small sets are as likely as large ones."""
    return int(np.exp(rng.uniform(np.log(low), np.log(high))))


def _digits(size: Size, subset: int | None) -> Size:
    """The digits as finetune divides them, 70-15-15, at most a subset of each class."""
    parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for total in DIGITS:
        train = total * 70 // 100
        val = (total - train) // 2
        for split, n in (("train", train), ("val", val), ("test", total - train - val)):
            parts[split].append(n if subset is None else min(n, subset))
    sizes = {f"n_{split}": sum(counts) for split, counts in parts.items()}
    counts = {split: tuple(found) for split, found in parts.items()}
    return dataclasses.replace(size, n_classes=10, counts=counts, **sizes)


def _skill(name: str, rng: np.random.Generator) -> float:
    """Of a usual network, one that learned nothing, or one that is never wrong."""
    usual = rng.uniform(0.5, 3) if ROWS[name][0] == "random" else rng.uniform(3, 8)
    return float(rng.choice([usual, 0.0, rng.uniform(8, 40)], p=[0.8, 0.1, 0.1]))


def write(folder: Path, rng: np.random.Generator, patch: pytest.MonkeyPatch) -> tuple[Size, list[str]]:
    """Write an honest run of a random kind.

    Returns:
        What was drawn, and names of the kinds, for counting.
    """
    size = draw(rng, patch)
    write_run(folder, size)
    document = json.loads((folder / "results.json").read_text())
    if size.counts is not None:
        _known(rng, document)
    if size.continued:
        _continued(rng, document)
    kinds = [kind for kind, share in KINDS.items() if rng.random() < share]
    for kind in kinds:
        kind(rng, document)
    commit(document)
    _keep_states(document)
    (folder / "results.json").write_text(json.dumps(document))
    return size, [kind.__name__.strip("_") for kind in kinds]


def _tuned(rng: np.random.Generator, document: dict[str, Any]) -> None:
    rows = document["config"]["variants"]
    if any(row["lr"] for row in rows):
        return
    best = {row["name"]: float(10 ** rng.uniform(-3, 0.5)) for row in rows}
    tune(document, str(rng.choice(["halving", "full"])), best, float(rng.uniform(0.02, 1)))


def _busy(rng: np.random.Generator, document: dict[str, Any]) -> None:
    """Other programs come and go, and stop this one altogether for a while."""
    for run in document["runs"]:
        for epoch in run["epochs"]:
            epoch["train_seconds"] *= float(rng.choice([1, 1, 2, 5, 40]))
            epoch["evaluation_seconds"] *= float(rng.choice([1, 2, 10]))
            epoch["data_wait_seconds"] = epoch["train_seconds"] * float(rng.uniform(0, 0.9))
        training = sum(epoch["train_seconds"] for epoch in run["epochs"])
        images = sum(epoch["train"]["n_samples"] for epoch in run["epochs"])
        run["images_per_second"] = images / training if images else 0.0
        run["total_seconds"] = 1 + training + sum(epoch["evaluation_seconds"] for epoch in run["epochs"])
    total = sum(run["total_seconds"] for run in document["runs"])
    document["timings"]["total_seconds"] = total + 4.5


def _gpu(_: np.random.Generator, document: dict[str, Any]) -> None:
    document["environment"].update(cuda="12.8", device="cuda", device_name="a GPU")


def _several_processes(rng: np.random.Generator, document: dict[str, Any]) -> None:
    document["config"]["processes"] = int(rng.integers(2, 9))


def _cached(rng: np.random.Generator, document: dict[str, Any]) -> None:
    document["config"]["cache_views"] = int(rng.integers(1, 9))


def _states(rng: np.random.Generator, document: dict[str, Any]) -> None:
    document["config"]["keep_states"] = int(rng.integers(1, 9))


def _known(_: np.random.Generator, document: dict[str, Any]) -> None:
    document["config"]["dataset"] = document["dataset"]["name"] = "digits"
    n_used = sum(split["n_samples"] for split in document["dataset"]["splits"].values())
    if n_used < sum(DIGITS):
        _subset(_, document)


def _excluded(rng: np.random.Generator, document: dict[str, Any]) -> None:
    if document["dataset"]["name"] == "digits":
        return
    document["dataset"]["excluded"] = [
        {"sample_id": f"Ants & bees/ñ{i} (1).jpg", "reason": "unreadable"} for i in range(rng.integers(1, 40))
    ]


def _subset(_: np.random.Generator, document: dict[str, Any]) -> None:
    """With as many of each class as the largest one has at most."""
    splits = [document["dataset"]["splits"], *(e["splits"] for e in document["dataset"]["resplits"] or ())]
    counts = [split["class_counts"] for entry in splits for split in entry.values()]
    document["config"]["subset"] = max(map(max, counts))


def _other_weights(rng: np.random.Generator, document: dict[str, Any]) -> None:
    if document["config"]["weights"] != "bundled":
        return
    kind = str(rng.choice(["imagenet", "file", "run"]))
    digest = KNOWN_WEIGHTS["imagenet"].sha256 if kind == "imagenet" else sha(kind)
    document["config"]["weights"] = "imagenet" if kind == "imagenet" else f"/home/me/{kind}"
    document["weights"] = {
        "kind": kind,
        "source": "weights.pth",
        "sha256": digest,
        "dropped": ["fc.bias", "fc.weight"],
    }


def _continued(_: np.random.Generator, document: dict[str, Any]) -> None:
    document["config"]["weights"] = "runs/first"
    document["weights"] = {"kind": "run", "source": "first", "sha256": sha("first"), "dropped": []}


def _no_weights(_: np.random.Generator, document: dict[str, Any]) -> None:
    if all(row["init"] == "random" for row in document["config"]["variants"]):
        document["weights"] = None


def _merged(rng: np.random.Generator, document: dict[str, Any]) -> None:
    """Jobs of some seeds each, in another order."""
    document["runs"] = [document["runs"][i] for i in rng.permutation(len(document["runs"]))]


KINDS: dict[Kind, float] = {
    _tuned: 0.3, _busy: 0.3, _gpu: 0.1, _several_processes: 0.1, _cached: 0.2,
    _states: 0.2, _excluded: 0.2, _subset: 0.3, _other_weights: 0.2, _no_weights: 1.0, _merged: 0.1,
}  # fmt: skip
"""Kinds and the share of runs that are of them."""


def _keep_states(document: dict[str, Any]) -> None:
    """The states that the commitments draw."""
    for run in document["runs"]:
        row = next(row for row in document["config"]["variants"] if row["name"] == run["variant"])
        epochs = row["epochs"] or document["config"]["recipe"]["epochs"]
        chain = [epoch["commitment"] for epoch in run["epochs"]]
        run["states"] = [
            {
                "epoch": number,
                "path": f"states/{run['variant']}-seed{run['seed']}-epoch{number}.safetensors",
                "sha256": sha(("state", run["variant"], run["seed"], number)),
            }
            for number in commitments.drawn_epochs(document["config"]["keep_states"], epochs, chain)
        ]


def truth_of(size: Size) -> Truth:
    """What the data set says of the images; with a split for each seed, only their labels."""
    splits = images_of(size, size.seeds[0])
    labels = {
        name: int(label)
        for images in splits.values()
        for name, label in zip(images.ids, images.labels.tolist(), strict=True)
    }
    held_out = {split: frozenset(splits[split].ids) for split in ("val", "test")}
    return Truth(labels, None if size.resplit else held_out, "the test's truth")
