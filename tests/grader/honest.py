"""An honest run folder without torch: simulated networks, but every number consistent with every other."""

import csv
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grader.checks.origin import KNOWN_WEIGHTS
from grader.reading.truth import Truth
from grader.statistics.calibration import N_BINS, expected_calibration_error
from grader.submission import commitments
from grader.submission.predictions import HEADER
from grader.submission.record import SPLITS
from grader.submission.resnet18 import GROUPS, count, of_groups, parameter_shapes

EMPTY = hashlib.sha256(b"").hexdigest()
VARIANTS = {"A": ("random", "all"), "B": ("pretrained", "all"), "C": ("pretrained", ["layer4", "fc"])}
SKILL = {"A": 2.2, "B": 6.5, "C": 5.8}  # how far the label's logit stands out after training
SHARED = 1.6  # how far hard images lower the label's logit in every network; its own part has 1.0
PEAK, WARMUP_EPOCHS = 0.02, 0.5
EPOCH_SECONDS = {"A": 2.0, "B": 2.0, "C": 1.2}


@dataclass(frozen=True)
class Size:
    """How large an experiment to simulate."""

    n_classes: int = 10
    n_train: int = 1257
    n_val: int = 270
    n_test: int = 270
    epochs: int = 4
    seeds: tuple[int, ...] = (0,)
    batch_size: int = 64
    sketch: bool = False  # draw all epochs but the last without simulating each image: fast, for size only


def sha(text: object) -> str:
    return hashlib.sha256(str(text).encode()).hexdigest()


def labels_of(n: int, n_classes: int) -> NDArray[np.int64]:
    return np.arange(n, dtype=np.int64) * 7 % n_classes


def ids_of(split: str, size: Size) -> list[str]:
    start = {"train": 0, "val": size.n_train, "test": size.n_train + size.n_val}[split]
    n = {"train": size.n_train, "val": size.n_val, "test": size.n_test}[split]
    return [f"digit-{start + i:05d}" for i in range(n)]


def hardness_of(split: str, n: int) -> NDArray[np.float64]:
    """How hard each image of a split is, for every network alike; standard normal."""
    return np.random.default_rng(list(split.encode())).normal(size=n)


def mean_rate(epoch: int, size: Size) -> float:
    """An epoch's mean learning rate, step by step as the training loop sums it."""
    steps, total = -(-size.n_train // size.batch_size), 0.0
    warmup = min(WARMUP_EPOCHS, size.epochs / 2) * steps
    for step in range((epoch - 1) * steps, epoch * steps):
        if step < warmup:
            total += PEAK * (step + 1) / (warmup + 1)
        else:
            total += PEAK * (1 + math.cos(math.pi * (step - warmup) / (size.epochs * steps - warmup))) / 2
    return total / steps


def simulate(
    labels: NDArray[np.int64],
    n_classes: int,
    skill: float,
    rng: np.random.Generator,
    hardness: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Predictions, losses, confidences and logits of a network whose label logit stands out by `skill`."""
    logits = rng.normal(0, 1.2, (len(labels), n_classes)).astype(np.float32)
    own = rng.normal(0, 1.0, len(labels))
    logits[np.arange(len(labels)), labels] += (skill - SHARED * hardness + own).astype(np.float32)
    logits -= logits.max(axis=1, keepdims=True)
    nll = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]
    confidence = 1 / np.exp(logits).sum(axis=1)
    losses = np.maximum(nll, 0).astype(np.float32)
    return logits.argmax(axis=1), losses, confidence.astype(np.float32), logits


def csv_text(ids: list[str], labels: Any, *columns: Any) -> str:
    rows = zip(ids, labels.tolist(), *(column.tolist() for column in columns), strict=True)
    return f"{','.join(HEADER)}\n" + "".join(f"{i},{y},{p},{v:.9g},{c:.9g}\n" for i, y, p, v, c in rows)


def fitted(logits: Any, labels: Any) -> float:
    """The temperature at which the mean loss is least, by bisection of its slope."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    low, high = math.log(0.01), math.log(100.0)
    for _ in range(45):
        weights = np.exp(shifted * math.exp(-(low + high) / 2))
        expected = (weights * shifted).sum(axis=1) / weights.sum(axis=1)
        slope = (expected - shifted[np.arange(len(labels)), labels]).sum()
        low, high = ((low + high) / 2, high) if slope > 0 else (low, (low + high) / 2)
    return math.exp((low + high) / 2)


def calibration(labels: Any, seen: dict[str, Any], logits: dict[str, Any]) -> dict[str, Any]:
    errors = {
        f"ece_{split}": expected_calibration_error(confidence, predicted == labels[split])
        for split, (predicted, _, confidence) in seen.items()
        if split != "train"
    }
    temperature = fitted(logits["val"], labels["val"])
    scaled = np.exp(logits["test"].astype(np.float64) / temperature)
    confidence, correct = scaled.max(axis=1) / scaled.sum(axis=1), seen["test"][0] == labels["test"]
    errors["ece_test_scaled"] = expected_calibration_error(confidence, correct)
    return {"temperature": temperature, **errors, "n_bins": N_BINS}


def metrics(labels: Any, predicted: Any, nll: Any, _confidence: Any) -> dict[str, Any]:
    return {
        "loss_sum": float(nll.astype(np.float64).sum()),
        "n_correct": int((labels == predicted).sum()),
        "n_samples": len(labels),
    }


def sketched(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """Sums that are possible, and worse than those of the last epoch."""
    n_correct = int(n * rng.uniform(0.01, 0.05))
    return {"loss_sum": (n - n_correct) * rng.uniform(3, 4), "n_correct": n_correct, "n_samples": n}


def write_run(folder: Path, size: Size | None = None) -> Path:
    """Write an honest run folder.

    Returns:
        The folder.
    """
    size = size or Size()
    (folder / "predictions").mkdir(parents=True)
    document = _frame(size)
    for seed in size.seeds:
        for variant in VARIANTS:
            document["runs"].append(_run(folder, size, variant, seed))
    commit(document)
    total = sum(run["total_seconds"] for run in document["runs"])
    document["timings"]["total_seconds"] = total + 4.5
    (folder / "results.json").write_text(json.dumps(document, indent=2))
    return folder


def commit(document: dict[str, Any]) -> None:
    """Chain the commitments of all epochs, as anybody can who has written their figures."""
    for run in document["runs"]:
        rows = {row["name"]: row for row in document["config"]["variants"]}
        own = rows.get(run["variant"], {}).get("epochs")
        recipe = document["config"]["recipe"]
        before = commitments.of_start(run, {**recipe, "epochs": own or recipe["epochs"]})
        for epoch in run["epochs"]:
            figures = SimpleNamespace(
                epoch=epoch["epoch"], **{s: SimpleNamespace(**epoch[s]) for s in ("train", *SPLITS)}
            )
            hashes = epoch["weights_sha256"], epoch["predictions_sha256"]
            before = epoch["commitment"] = commitments.of_epoch(before, figures, *hashes)
    for trial in (document["tuning"] or {}).get("trials", ()):
        _commit_trial(document, trial)


def _commit_trial(document: dict[str, Any], trial: dict[str, Any]) -> None:
    row = next(row for row in document["config"]["variants"] if row["name"] == trial["variant"])
    groups = list(GROUPS) if row["train"] == "all" else row["train"]
    recipe = {**document["config"]["recipe"], "epochs": trial["epochs"]}
    before = commitments.of_start({**trial, "trained_groups": groups}, recipe)
    for number, (own, val) in enumerate(zip(trial["commitments"], trial["validation"], strict=True), 1):
        figures = SimpleNamespace(
            epoch=number, train=SimpleNamespace(**own["train"]), val=SimpleNamespace(**val), test=None
        )
        hashes = own["weights_sha256"], own["predictions_sha256"]
        before = own["commitment"] = commitments.of_epoch(before, figures, *hashes)


def _run(folder: Path, size: Size, variant: str, seed: int) -> dict[str, Any]:
    init, train = VARIANTS[variant]
    groups = list(GROUPS) if train == "all" else list(train)
    shapes = of_groups(size.n_classes, tuple(groups))
    rng = np.random.default_rng([seed, ord(variant)])
    labels = {
        split: labels_of(n, size.n_classes)
        for split, n in (("train", size.n_train), ("val", size.n_val), ("test", size.n_test))
    }
    hardness = {split: hardness_of(split, len(found)) for split, found in labels.items()}
    epochs, files, calibrations = [], [], []
    for number in range(1, size.epochs + 1):
        share = 0.4 + 0.6 * number / size.epochs
        is_sketch = size.sketch and number < size.epochs
        drawn = (
            {}
            if is_sketch
            else {
                split: simulate(labels[split], size.n_classes, SKILL[variant] * share, rng, hardness[split])
                for split in labels
            }
        )
        seen = {split: found[:3] for split, found in drawn.items()}
        logits = {split: found[3] for split, found in drawn.items()}
        seconds = EPOCH_SECONDS[variant] * (1.5 if number == 1 else 1) * rng.lognormal(0, 0.05)
        epochs.append(
            {
                "epoch": number,
                "learning_rate": mean_rate(number, size),
                **{
                    split: sketched(len(labels[split]), rng)
                    if is_sketch
                    else metrics(labels[split], *seen[split])
                    for split in labels
                },
                "train_seconds": seconds,
                "train_cpu_seconds": seconds * 1.9,
                "data_wait_seconds": seconds * 0.1,
                "evaluation_seconds": 0.3,
                "weights_sha256": sha(("weights", variant, seed, number)),
                "predictions_sha256": sha("sketched")
                if is_sketch
                else commitments.of_predictions(seen[split] for split in SPLITS),
            }
        )
        files.append(
            {s: csv_text(ids_of(s, size), labels[s], *seen[s]).encode() for s in seen if s != "train"}
        )
        calibrations.append((labels, seen, logits) if seen else None)
    best = max(epochs, key=lambda e: (e["val"]["n_correct"], -e["val"]["loss_sum"], -e["epoch"]))["epoch"]
    artifacts = {"checkpoint": f"checkpoints/{variant}-seed{seed}.safetensors"}
    hashes = {"checkpoint": sha(("checkpoint", variant, seed))}
    for split, content in files[best - 1].items():
        name = f"{split}_predictions"
        artifacts[name] = f"predictions/{variant}-seed{seed}-{split}.csv"
        hashes[name] = hashlib.sha256(content).hexdigest()
        (folder / artifacts[name]).write_bytes(content)
    frozen = EMPTY if train == "all" else sha("frozen trunk")
    training = sum(epoch["train_seconds"] for epoch in epochs)
    n_trained = count(shapes)
    return {
        "variant": variant,
        "seed": seed,
        "status": "completed",
        "failure": None,
        "init": init,
        "initial_sha256": sha((init, seed)),
        "trained_groups": groups,
        "trainable_parameters": [
            {"name": n, "shape": list(s), "count": int(np.prod(s))} for n, s in shapes.items()
        ],
        "n_trained": n_trained,
        "n_frozen": count(parameter_shapes(size.n_classes)) - n_trained,
        "frozen_sha256_before": frozen,
        "frozen_sha256_after": frozen,
        "learning_rate": PEAK,
        "trial": None,
        "budget": {
            "epochs": size.epochs,
            "steps": size.epochs * -(-size.n_train // size.batch_size),
            "images": size.epochs * size.n_train,
            "stream_sha256": sha(("stream", seed)),
        },
        "epochs": epochs,
        "best_epoch": best,
        "calibration": calibration(*(calibrations[best - 1] or ())),
        "total_seconds": training + 0.3 * size.epochs + 1,
        "images_per_second": size.epochs * size.n_train / training,
        "peak_memory_bytes": 900_000_000,
        "load_average": 2.1,
        "artifacts": {name: {"path": artifacts[name], "sha256": hashes[name]} for name in artifacts},
        "states": [],
    }


def _frame(size: Size) -> dict[str, Any]:
    """Everything but the runs."""
    return {
        "schema_version": "2.0",
        "created_at": "2026-11-23T10:00:00Z",
        "tool": {"name": "finetune", "version": "0.1.0", "git_commit": None, "git_dirty": None},
        "environment": {
            "python": "3.11.7", "torch": "2.11.0", "torchvision": "0.26.0", "numpy": "2.4.0",
            "pillow": "12.0.0", "cuda": None, "platform": "Linux-x86_64", "device": "cpu",
            "device_name": "simulated", "cpu_cores": 2, "threads": 2,
        },
        "config": {
            "preset": "smoke", "dataset": "imagefolder:digits", "split": "70-15-15", "subset": None,
            "weights": "bundled", "seeds": list(size.seeds), "split_seed": 0, "seed_from": None,
            "resplit": False, "tune": None, "keep_states": 0, "near_duplicates": "report",
            "variants": [
                {"name": name, "init": init, "train": train, "lr": None, "epochs": None, "norm": "frozen",
                 "head": None}
                for name, (init, train) in VARIANTS.items()
            ],
            "recipe": {
                "epochs": size.epochs, "batch_size": size.batch_size, "lr": PEAK, "momentum": 0.9,
                "weight_decay": 0.0001, "warmup_epochs": WARMUP_EPOCHS, "image_size": 32,
                "crop_area_min": 0.6, "flip_probability": 0.0, "statistics": "running",
            },
        },
        "dataset": {
            "name": "imagefolder",
            "classes": [str(i) for i in range(size.n_classes)],
            "splits": {
                split: {
                    "n_samples": n,
                    "class_counts": np.bincount(
                        labels_of(n, size.n_classes), minlength=size.n_classes
                    ).tolist(),
                    "fingerprint": sha(("fingerprint", split)),
                }
                for split, n in (("train", size.n_train), ("val", size.n_val), ("test", size.n_test))
            },
            "resplits": None,
            "near_duplicates": None,
            "excluded": [],
            "notes": [],
        },
        "weights": {
            "kind": "bundled", "source": "resnet18.safetensors", "sha256": KNOWN_WEIGHTS["bundled"].sha256,
            "dropped": [],
        },
        "timings": {
            "start_seconds": 2.0, "download_seconds": 0.0, "decode_seconds": 0.5, "total_seconds": 0.0
        },
        "tuning": None,
        "runs": [],
    }  # fmt: skip


def truth_of(run: Path) -> Truth:
    """What a data set would say that the honest run tells no lies about, with a training image per class."""
    splits: dict[str, set[str]] = {"val": set(), "test": set()}
    labels = {f"train-{label}": label for label in range(10)}
    for split, ids in splits.items():
        with (run / "predictions" / f"A-seed0-{split}.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                ids.add(row["sample_id"])
                labels[row["sample_id"]] = int(row["label"])
    frozen = {name: frozenset(ids) for name, ids in splits.items()}
    return Truth(labels, frozen, "the test's truth")
