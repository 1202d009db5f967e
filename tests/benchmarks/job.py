"""What the two plain programs share: options, the images that ours sees, clocks, and one line of JSON.

The list of images comes from finetune in a process of its own, whose time is taken off: a plain program lists
a folder in no time, and hashes nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset
from torchvision.models import resnet18

from finetune.config.experiment import Recipe
from tests.benchmarks.memory import peak_resident_bytes

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
SPLITS = ("train", "val", "test")


class Pictures(Dataset[tuple[Any, int]]):
    """Files opened and decoded each time they are asked for, as torchvision's ImageFolder does."""

    def __init__(self, files: list[tuple[str, int]], transform: Callable[[Image.Image], Any]) -> None:
        self.files = files
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, label = self.files[index]
        with Path(path).open("rb") as file:
            image = Image.open(file).convert("RGB")
        return self.transform(image), label


class Waiting:
    """Hands batches on and sums the seconds that they were waited for, the start of workers included."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, batches: Iterable[Any]) -> Iterator[Any]:
        asked = time.perf_counter()
        for batch in batches:
            self.seconds += time.perf_counter() - asked
            yield batch
            asked = time.perf_counter()


@dataclass
class Log:
    """What a variant's epochs took and reached; one entry an epoch."""

    train_seconds: list[float] = field(default_factory=list)
    data_wait_seconds: list[float] = field(default_factory=list)
    evaluation_seconds: list[float] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    test_accuracy: list[float] = field(default_factory=list)


class Job:
    """One program's run: its options, its images, and what of its time and memory is not its own."""

    def __init__(self) -> None:
        self.args = options()
        self.off_seconds = 0.0
        self.workers_bytes = 0
        began = time.perf_counter()
        listing = json.loads(
            subprocess.run(
                [sys.executable, "-m", "tests.benchmarks.listing", *sys.argv[1:]],
                stdout=subprocess.PIPE,
                check=True,
            ).stdout
        )
        self.off_seconds += time.perf_counter() - began
        self.n_classes: int = listing["n_classes"]
        self.files: dict[str, list[tuple[str, int]]] = {split: listing[split] for split in SPLITS}

    def network(self, variant: str) -> nn.Module:
        """ResNet-18 as a variant starts: A random, B and C pretrained, C frozen but for layer4 and fc."""
        model = resnet18(num_classes=self.n_classes)
        if variant != "A":
            # Not at the top: A alone would not need it.
            from finetune.network.weights import load_weights

            shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
            model.load_state_dict(load_weights(self.args.weights, shapes).state, strict=False)
        if variant == "C":
            for name, parameter in model.named_parameters():
                parameter.requires_grad = name.startswith(("layer4.", "fc."))
        return model.to(self.args.device)

    def look_at_workers(self) -> float:
        """Note the memory that loader processes do not share with this one; the seconds that looking took."""
        began = time.perf_counter()
        children = psutil.Process().children(recursive=True)
        self.workers_bytes = max(self.workers_bytes, sum(c.memory_full_info().uss for c in children))
        seconds = time.perf_counter() - began
        self.off_seconds += seconds
        return seconds

    def run(self, train: Callable[[Job, str], Log]) -> None:
        """Train the variants one after another and print one line of JSON."""
        logs = {}
        for variant in self.args.variants.split(","):
            torch.manual_seed(self.args.seed)
            logs[variant] = asdict(train(self, variant))
        report = {
            "whole_seconds": time.time() - psutil.Process().create_time() - self.off_seconds,
            "off_seconds": self.off_seconds,
            "threads": torch.get_num_threads(),
            "workers": self.args.workers,
            "peak_memory_bytes": peak_resident_bytes() + self.workers_bytes,
            "variants": logs,
        }
        sys.stdout.write(json.dumps(report) + "\n")


def options() -> argparse.Namespace:
    """The options of both programs, and of the listing that they start."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--split")
    parser.add_argument("--subset", type=int)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=Recipe().lr)
    parser.add_argument("--weights", default="bundled")
    parser.add_argument("--variants", default="A,B,C")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()
