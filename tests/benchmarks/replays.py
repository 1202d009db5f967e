"""Epochs trained again under other conditions, and by forgers: what `replay-agrees` tells apart.

    python -m tests.benchmarks.replays record FOLDER         # honest runs, with run folders
    python -m tests.benchmarks.replays again FOLDER NAME...  # their epochs, under other conditions
    python -m tests.benchmarks.replay_rates FOLDER           # the tables of docs/detection.md

`--torch PYTHON` names a Python with another version of PyTorch, for the conditions that need one.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared/data"
FLOWERS = ["--dataset", "flowers102", "--data-root", str(DATA), "--split", "70-15-15", "--weights", "bundled"]
FLOWERS += ["--batch-size", "32"]
SETTINGS = {
    "digits": ["--preset", "smoke", "--keep-states", "2", "--seeds", "3"],
    "flowers": [*FLOWERS, "--subset", "4", "--image-size", "32", "--epochs", "3", "--seeds", "3"],
    "flowers-64": [*FLOWERS, "--subset", "4", "--image-size", "64", "--epochs", "2"],
}
"""Options of `finetune train`. Digits: 270 images, 5 steps an epoch; flowers: 408 photos, 13 steps."""

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
NO_AVX = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
OLDER_AVX512 = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}
NO_AMX = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}


@dataclasses.dataclass(frozen=True)
class Again:
    """How epochs are trained again.

    Attributes:
        environ: Environment variables, which stand for another processor.
        config: Fields of the configuration: `precision`, `threads`.
        forger: What is done otherwise: `seed`, `order`, `start`, `rate`, `held-out`, or `noise` on the
            trained weights; empty if nothing is.
        value: By how much.
        other_torch: Whether with another version of PyTorch.
        brief: Whether only the first seed, because it takes long.
    """

    environ: Mapping[str, str] = dataclasses.field(default_factory=dict)
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    forger: str = ""
    value: float = 0
    other_torch: bool = False
    brief: bool = False


HONEST = {
    "the same": Again(),
    "2 threads": Again(config={"threads": 2}),
    "bf16": Again(config={"precision": "bf16"}),
    "AVX-512 without later extensions": Again(OLDER_AVX512),
    "AVX2": Again(AVX2),
    "no AVX": Again(NO_AVX, brief=True),
    "another torch": Again(other_torch=True),
    "another torch, bf16": Again(config={"precision": "bf16"}, other_torch=True),
}
FORGERS = {
    **{f"seed + {k}": Again(forger="seed", value=k) for k in (100, 200)},
    "another order": Again(forger="order", value=100),
    "another start": Again(forger="start", value=100),
    **{f"rate x {factor}": Again(forger="rate", value=factor) for factor in (0.5, 0.9, 0.98, 1.1, 2.0)},
    "a fifth held-out images": Again(forger="held-out", value=1),
    **{
        f"noise of {share:.1%} on weights": Again(forger="noise", value=share) for share in (0.001, 0.01, 0.1)
    },
}
WAYS = {**HONEST, **FORGERS}


def record(folder: Path, setting: str) -> None:
    """Train the honest runs of a setting, in fp32 with one thread."""
    out = folder / setting / "run"
    options = [*SETTINGS[setting], "--precision", "fp32", "--threads", "1", "--workers", "1", "--quiet"]
    command = [sys.executable, "-m", "finetune", "train", *options, "--out", str(out)]
    subprocess.run(command, check=True, cwd=ROOT)


def again(folder: Path, setting: str, name: str, python: str) -> None:
    """Train a setting's epochs again in a process of its own, and write them as `finetune replay` does."""
    way = WAYS[name]
    variables = {**os.environ, **way.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}
    program = python if way.other_torch else sys.executable
    command = [program, "-m", "tests.benchmarks.replays", "once", str(folder / setting), name]
    subprocess.run(command, check=True, cwd=ROOT, env=variables)


def passages_of(document: Mapping[str, Any], way: Again) -> list[tuple[str, int, int]]:
    """The first epoch of every run.

    Honest: with the first seed all epochs of B and C, which start pretrained, two of A, and the epoch after
    the first kept state.
    """
    first = document["config"]["seeds"][0]
    found = []
    for run in document["runs"]:
        name, n = f"{run['variant']}-seed{run['seed']}", len(run["epochs"])
        if run["seed"] != first:
            if not way.brief:
                found.append((name, 1, 1))
        elif way.forger:
            found.append((name, 1, 1))
        else:
            count = 2 if way.brief or run["init"] == "random" else n
            found.append((name, 1, min(n, count)))
            found += [(name, state["epoch"] + 1, 1) for state in run["states"][:1]]
    return found


def once(folder: Path, name: str) -> None:
    """In this process: train again and write `NAME.json` beside the run folder."""
    from finetune.evidence import replay
    from finetune.run import fit
    from tests.builders.runs import RecordingReporter

    way = WAYS[name]
    begin, trainer, config_of = fit.begin, fit.Trainer, replay._config
    document = json.loads((folder / "run/results.json").read_text())

    def begun(prepared: Any, variant: Any, seed: int, peak: float) -> Any:
        other = int(way.value) if way.forger in ("seed", "start") else 0
        return begin(prepared, variant, seed + other, peak)

    def trained(network: Any, images: Any, *arguments: Any, **options: Any) -> Any:
        if way.forger in ("seed", "order"):
            options["seed"] += int(way.value)
        if way.forger == "rate":
            options["peak"] *= way.value
        if way.forger == "held-out":
            images = with_held_out(images, options["seed"])
        found = trainer(network, images, *arguments, **options)
        if way.forger == "noise":
            found._evaluate = functools.partial(noisy, found, found._evaluate, way.value)
        return found

    def configured(*arguments: Any, **options: Any) -> Any:
        return dataclasses.replace(config_of(*arguments, **options), **way.config)

    fit.begin, fit.Trainer, replay._config = begun, trained, configured  # type: ignore[assignment, misc]
    replay.replay_run(
        folder / "run",
        folder / f"{name}.json",
        RecordingReporter(),
        passages=passages_of(document, way),
        data_root=str(DATA),
        weights="bundled",
        device="cpu",
    )


def noisy(trainer: Any, evaluate: Any, share: float) -> Any:
    """Evaluate after adding noise to what was trained: a share of each weight, normally distributed."""
    import torch

    generator = torch.Generator().manual_seed(trainer.seed)
    with torch.no_grad():
        for parameter in trainer.network.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.mul_(1 + share * noise)
    return evaluate()


def with_held_out(images: Any, seed: int) -> Any:
    """A fifth of the training images replaced by validation and test images, so that steps stay the same."""
    import numpy as np
    import torch

    from finetune.data.store import StoredImages

    rng = np.random.default_rng(seed)
    pictures = [images.train.image(i) for i in range(len(images.train))]
    labels = images.train_labels.clone()
    for i in rng.choice(len(pictures), len(pictures) // 5, replace=False):
        source, truths = images.held_out[("val", "test")[rng.integers(2)]]
        other = rng.integers(len(truths))
        pictures[i], labels[i] = source.image(other), truths[other]
    sizes = np.array([picture.shape[:2] for picture in pictures], dtype=np.int64)
    pixels = np.concatenate([picture.ravel() for picture in pictures])
    return dataclasses.replace(
        images, train=StoredImages(pixels, sizes), train_labels=torch.as_tensor(labels)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("action", choices=["record", "again", "once"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="of conditions and forgers; all if none is given")
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--torch", default="", metavar="PYTHON")
    options = parser.parse_args()
    if options.action == "once":
        once(options.folder, *options.names)
        return
    for setting in options.settings.split(","):
        if options.action == "record":
            record(options.folder, setting)
            continue
        for name in options.names or WAYS:
            done = (options.folder / setting / f"{name}.json").exists()
            if not done and (options.torch or not WAYS[name].other_torch):
                again(options.folder, setting, name, options.torch)


if __name__ == "__main__":
    main()
