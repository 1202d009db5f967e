"""An honest run folder without torch: simulated networks, but every number consistent with every other."""

import csv
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
OWN: dict[str, dict[str, Any]] = {}  # epochs, norm and head of rows that have their own
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
    resplit: bool = False
    uneven: float = 0.0  # the most frequent class has exp(uneven) times as many images as the rarest
    counts: Mapping[str, tuple[int, ...]] | None = None  # images of each class by split, if given
    bf16: bool = False
    collapsed: frozenset[str] = frozenset()  # variants that learned nothing but how frequent classes are
    failed: Mapping[tuple[str, int], int] = field(default_factory=dict)  # epochs that a failed run completed
    continued: bool = False  # pretrained networks were one, whose head was kept, and hardly moved since


def sha(text: object) -> str:
    return hashlib.sha256(str(text).encode()).hexdigest()


@dataclass(frozen=True)
class Images:
    """A split: ids, labels and how hard each image is for every network alike, standard normal; all [n]."""

    ids: list[str]
    labels: NDArray[np.int64]
    hardness: NDArray[np.float64]


def frequencies(size: Size) -> NDArray[np.float64]:
    """The share of each class, [classes]."""
    shares = np.exp(-size.uneven * np.arange(size.n_classes) / max(1, size.n_classes - 1))
    return np.asarray(shares / shares.sum())


def labels_of(split: str, n: int, size: Size) -> NDArray[np.int64]:
    if size.counts is not None:
        labels = np.repeat(np.arange(size.n_classes, dtype=np.int64), size.counts[split])
        return np.random.default_rng(n).permutation(labels)
    labels = np.arange(n, dtype=np.int64) * 7 % size.n_classes
    if size.uneven:
        rest = np.random.default_rng(n).choice(size.n_classes, n, p=frequencies(size))
        labels[size.n_classes :] = rest[size.n_classes :]  # each class has an image
    return labels


def images_of(size: Size, seed: int) -> dict[str, Images]:
    """The images of each split; with resplits, those of a seed."""
    sizes = {"train": size.n_train, "val": size.n_val, "test": size.n_test}
    labels = np.concatenate([labels_of(split, n, size) for split, n in sizes.items()])
    hardness = np.concatenate(
        [np.random.default_rng(list(split.encode())).normal(size=n) for split, n in sizes.items()]
    )
    order = np.random.default_rng(seed).permutation(len(labels)) if size.resplit else np.arange(len(labels))
    found, start = {}, 0
    for split, n in sizes.items():
        chosen = order[start : start + n]
        ids = [f"digit-{i:05d}" for i in chosen.tolist()]
        found[split], start = Images(ids, labels[chosen], hardness[chosen]), start + n
    return found


def as_bf16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The nearest numbers that bf16 has, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


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
    images: Images,
    size: Size,
    skill: float | None,
    rng: np.random.Generator,
    start: np.random.Generator | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Predictions, losses, confidences and logits of a network whose label logit stands out by `skill`.

    Without skill it has learned nothing but how frequent the classes are, and hardly looks at the images.
    With a start it is the network that is drawn from that, hardly changed.
    """
    moved, rng = rng, start or rng
    labels, shape = images.labels, (len(images.labels), size.n_classes)
    logits = rng.normal(0, 1.2 if skill is not None else 0.001, shape).astype(np.float32)
    if skill is not None:
        own = rng.normal(0, 1.0, len(labels))
        logits[np.arange(len(labels)), labels] += (skill - SHARED * images.hardness + own).astype(np.float32)
    if size.uneven or skill is None:
        biases = np.log(frequencies(size)) + rng.normal(0, 0.02, size.n_classes)
        logits += biases.astype(np.float32)
    logits += moved.normal(0, 0.01, shape).astype(np.float32) if start else np.float32(0)
    logits = as_bf16(logits) if size.bf16 else logits
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
    (init, train), own = VARIANTS[variant], OWN.get(variant, {})
    groups = list(GROUPS) if train == "all" else list(train)
    shapes = of_groups(size.n_classes, tuple(groups))
    rng = np.random.default_rng([seed, *variant.encode()])
    size, peak = replace(size, epochs=own.get("epochs") or size.epochs), own.get("lr") or PEAK
    images = images_of(size, seed)
    labels = {split: found.labels for split, found in images.items()}
    completed = size.failed.get((variant, seed), size.epochs)
    epochs, files, calibrations = [], [], []
    for number in range(1, completed + 1):
        share = 0.4 + 0.6 * number / size.epochs
        is_sketch = size.sketch and number < size.epochs
        skill = None if variant in size.collapsed else SKILL[variant] * share
        is_continued = size.continued and init == "pretrained"
        drawn = {  # training images are cropped anew, so that no two passes over them agree
            split: simulate(
                images[split],
                size,
                skill,
                rng,
                np.random.default_rng(0) if is_continued and split != "train" else None,
            )
            for split in images
            if not is_sketch
        }
        seen = {split: found[:3] for split, found in drawn.items()}
        logits = {split: found[3] for split, found in drawn.items()}
        seconds = EPOCH_SECONDS[variant] * (1.5 if number == 1 else 1) * rng.lognormal(0, 0.05)
        epochs.append(
            {
                "epoch": number,
                "learning_rate": mean_rate(number, size) * peak / PEAK,
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
        files.append({split: seen[split] for split in SPLITS if seen})
        calibrations.append((labels, seen, logits) if seen else None)
    ranked = sorted((-e["val"]["n_correct"], e["val"]["loss_sum"], e["epoch"]) for e in epochs)
    best = ranked[0][2] if ranked else None
    artifacts = {"checkpoint": f"checkpoints/{variant}-seed{seed}.safetensors"}
    hashes = {"checkpoint": sha(("checkpoint", variant, seed))}
    for split, columns in files[best - 1].items() if best else ():
        content = csv_text(images[split].ids, labels[split], *columns).encode()
        name = f"{split}_predictions"
        artifacts[name] = f"predictions/{variant}-seed{seed}-{split}.csv"
        hashes[name] = hashlib.sha256(content).hexdigest()
        (folder / artifacts[name]).write_bytes(content)
    frozen = EMPTY if set(groups) == set(GROUPS) else sha(("frozen", *groups, own.get("norm") == "adapt"))
    training = sum(epoch["train_seconds"] for epoch in epochs)
    n_trained, per_epoch = count(shapes), -(-size.n_train // size.batch_size)
    is_complete = completed == size.epochs
    steps = completed * per_epoch + (0 if is_complete else int(rng.integers(1, per_epoch + 1)))
    return {
        "variant": variant,
        "seed": seed,
        "status": "completed" if is_complete else "failed",
        "failure": None if is_complete else "loss became nan",
        "init": init,
        "initial_sha256": sha((init, seed, own["head"]) if own.get("head") else (init, seed)),
        "trained_groups": groups,
        "trainable_parameters": [
            {"name": n, "shape": list(s), "count": int(np.prod(s))} for n, s in shapes.items()
        ],
        "n_trained": n_trained,
        "n_frozen": count(parameter_shapes(size.n_classes)) - n_trained,
        "frozen_sha256_before": frozen,
        "frozen_sha256_after": frozen,
        "learning_rate": peak,
        "trial": None,
        "budget": {
            "epochs": completed,
            "steps": steps,
            "images": completed * size.n_train + (steps - completed * per_epoch) * size.batch_size,
            "stream_sha256": sha(("stream", seed, steps)),
        },
        "epochs": epochs,
        "best_epoch": best,
        "calibration": calibration(*(calibrations[best - 1] or ())) if best else None,
        "total_seconds": training + 0.3 * completed + 1,
        "images_per_second": completed * size.n_train / training if completed else 0.0,
        "peak_memory_bytes": 900_000_000,
        "load_average": 2.1,
        "artifacts": {name: {"path": artifacts[name], "sha256": hashes[name]} for name in artifacts}
        if best
        else None,
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
            "device_name": "simulated", "vector_instructions": "AVX512, BF16", "cpu_cores": 2, "threads": 2,
        },
        "config": {
            "preset": "smoke", "dataset": "imagefolder:digits", "split": "70-15-15", "subset": None,
            "weights": "bundled", "seeds": list(size.seeds), "split_seed": 0, "seed_from": None,
            "resplit": size.resplit, "tune": None, "keep_states": 0, "near_duplicates": "report",
            "precision": "bf16" if size.bf16 else "fp32",
            "variants": [
                {"name": name, "init": init, "train": train, "lr": None, "epochs": None, "norm": "frozen",
                 "head": None} | OWN.get(name, {})
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
            "splits": _splits(size, size.seeds[0]),
            "resplits": [
                {"seed": seed, "splits": _splits(size, seed), "near_duplicates": None} for seed in size.seeds
            ]
            if size.resplit
            else None,
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


def _splits(size: Size, seed: int) -> dict[str, Any]:
    return {
        split: {
            "n_samples": len(images.ids),
            "class_counts": np.bincount(images.labels, minlength=size.n_classes).tolist(),
            "fingerprint": sha(("fingerprint", split, seed) if size.resplit else ("fingerprint", split)),
        }
        for split, images in images_of(size, seed).items()
    }


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
