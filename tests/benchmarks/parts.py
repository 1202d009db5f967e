"""Single parts, timed in a process with all the cores: `python -m tests.benchmarks.parts PART NUMBER ...`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from torchvision import models, transforms

from finetune.config.experiment import Recipe
from finetune.data.augment import crop, plan_epoch
from finetune.network.fused import in_eval_mode
from finetune.network.resnet18 import resnet18
from finetune.training.precision import mixed

Samples = dict[str, list[float]]
CPU = torch.device("cpu")
ABLE = torch.cpu._is_avx512_bf16_supported()
"""Whether bf16 pays here."""


def in_turns(works: dict[str, Callable[[], object]], rounds: int) -> Samples:
    """Seconds of each work in each round, all works once a round, after one round that does not count."""
    samples: Samples = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            if number > 0:
                samples[name].append(time.perf_counter() - began)
    return samples


def step(batch_size: int, image_size: int, rounds: int) -> Samples:
    """One step of ResNet-18 with SGD: in PyTorch's usual memory order, in channels_last, then in bf16."""

    def stepper(memory_format: torch.memory_format, precision: str = "fp32") -> Callable[[], object]:
        model = models.resnet18(num_classes=102).to(memory_format=memory_format)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        images = torch.rand(batch_size, 3, image_size, image_size).contiguous(memory_format=memory_format)
        labels = torch.zeros(batch_size, dtype=torch.int64)

        def one() -> None:
            optimizer.zero_grad()
            with mixed(precision, CPU):
                logits = model(images)
            functional.cross_entropy(logits.float(), labels).backward()
            optimizer.step()

        return one

    works = {"nchw": stepper(torch.contiguous_format), "channels_last": stepper(torch.channels_last)}
    if ABLE:
        works["bf16"] = stepper(torch.channels_last, "bf16")
    return in_turns(works, rounds)


def forward(batch_size: int, image_size: int, rounds: int) -> Samples:
    """A batch through ResNet-18 in eval mode: its modules and fused, in fp32 and in bf16."""
    model = resnet18(102).eval().to(memory_format=torch.channels_last)
    images = torch.rand(batch_size, 3, image_size, image_size).to(memory_format=torch.channels_last)

    def forwarder(precision: str, fused: bool) -> Callable[[], object]:
        with mixed(precision, CPU):
            step = in_eval_mode(model) if fused else model

        @torch.inference_mode()
        def one() -> None:
            with mixed(precision, CPU):
                step(images)

        return one

    precisions = ("fp32", "bf16") if ABLE else ("fp32",)
    return in_turns(
        {f"{p}_{form}": forwarder(p, form == "fused") for p in precisions for form in ("plain", "fused")},
        rounds,
    )


def augment(n_images: int, image_size: int, rounds: int) -> Samples:
    """Crop and flip of images of twice the input size, as the store holds them: seconds an image, one thread.

    Ours ends with pixels, torchvision with Pillow's image made into pixels.
    """
    side = (2 * image_size, 2 * image_size * 4 // 3)
    stored = np.random.default_rng(0).integers(0, 256, (n_images, *side, 3), dtype=np.uint8)
    plan = plan_epoch(0, 1, np.array([side] * n_images), Recipe(image_size=image_size))
    plain = transforms.Compose(
        [transforms.RandomResizedCrop(image_size), transforms.RandomHorizontalFlip(), np.asarray]
    )

    def ours() -> None:
        for i in range(n_images):
            np.ascontiguousarray(crop(stored[i], plan.boxes[i], bool(plan.flips[i]), image_size))

    def theirs() -> None:
        for image in stored:
            plain(Image.fromarray(image))

    samples = in_turns({"ours": ours, "theirs": theirs}, rounds)
    return {name: [seconds / n_images for seconds in values] for name, values in samples.items()}


PARTS = {"step": step, "forward": forward, "augment": augment}

if __name__ == "__main__":
    part = PARTS[sys.argv[1]]
    json.dump(part(*map(int, sys.argv[2:])), sys.stdout)
