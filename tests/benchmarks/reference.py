"""In the manner of torchvision's references/classification/train.py: presets, samplers, loggers, evaluation.

It trains one network; here three variants follow one another. Memory is not pinned: that serves GPUs alone.

https://github.com/pytorch/vision/tree/main/references/classification
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import defaultdict, deque
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from tests.benchmarks.job import MEAN, SPLITS, STD, Job, Log, Pictures, Waiting

PRINT_EVERY = 10
WEIGHT_DECAY = 1e-4
"""The reference's defaults."""


class Meter:
    """A series' recent median and its mean over everything, as each line of the log shows them."""

    def __init__(self) -> None:
        self.recent: deque[float] = deque(maxlen=20)
        self.total = 0.0
        self.count = 0

    def update(self, value: float, n: int = 1) -> None:
        self.recent.append(value)
        self.total += value * n
        self.count += n

    def __str__(self) -> str:
        return f"{torch.tensor(list(self.recent)).median().item():.4f} ({self.total / self.count:.4f})"


def accuracy(output: torch.Tensor, target: torch.Tensor) -> list[torch.Tensor]:
    """Percentage of hits among the first and the first five guesses."""
    top = (1, min(5, output.shape[1]))
    with torch.inference_mode():
        hits = output.topk(max(top)).indices.t() == target[None]
        return [hits[:k].flatten().sum(dtype=torch.float32) * (100.0 / len(target)) for k in top]


def loaders(job: Job) -> dict[str, DataLoader]:
    args = job.args
    end = [
        transforms.PILToTensor(),
        transforms.ConvertImageDtype(torch.float),
        transforms.Normalize(MEAN, STD),
    ]
    bilinear = {"interpolation": InterpolationMode.BILINEAR, "antialias": True}
    augment = [
        transforms.RandomResizedCrop(args.image_size, **bilinear),
        transforms.RandomHorizontalFlip(0.5),
    ]
    centre = [
        transforms.Resize(round(args.image_size * 256 / 224), **bilinear),
        transforms.CenterCrop(args.image_size),
    ]
    made = {}
    for split in SPLITS:
        training = split == "train"
        pictures = Pictures(job.files[split], transforms.Compose([*(augment if training else centre), *end]))
        made[split] = DataLoader(
            pictures,
            batch_size=args.batch_size,
            sampler=RandomSampler(pictures) if training else SequentialSampler(pictures),
            num_workers=args.workers,
        )
    return made


def train_one_epoch(
    job: Job,
    model: nn.Module,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: DataLoader,
    log: Log,
) -> None:
    model.train()
    meters: defaultdict[str, Meter] = defaultdict(Meter)
    waiting, off = Waiting(), 0.0
    started = asked = time.perf_counter()
    for step, (image, target) in enumerate(waiting(batches)):
        image, target = image.to(job.args.device), target.to(job.args.device)
        output = model(image)
        loss = criterion(output, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first, fifth = accuracy(output, target)
        meters["loss"].update(loss.item())
        meters["acc1"].update(first.item(), len(target))
        meters["acc5"].update(fifth.item(), len(target))
        meters["img/s"].update(len(target) / (time.perf_counter() - asked))
        asked = time.perf_counter()
        if step % PRINT_EVERY == 0:
            sys.stderr.write("  ".join(f"{name}: {meter}" for name, meter in meters.items()) + "\n")
        if step == len(batches) // 2:
            off += job.look_at_workers()
    log.train_seconds.append(time.perf_counter() - started - off)
    log.data_wait_seconds.append(waiting.seconds)


def evaluate(job: Job, model: nn.Module, criterion: nn.Module, batches: DataLoader) -> float:
    """Share of correct predictions."""
    model.eval()
    meters: defaultdict[str, Meter] = defaultdict(Meter)
    with torch.inference_mode():
        for step, (image, target) in enumerate(batches):
            image, target = image.to(job.args.device), target.to(job.args.device)
            output = model(image)
            first, fifth = accuracy(output, target)
            meters["loss"].update(criterion(output, target).item())
            meters["acc1"].update(first.item(), len(target))
            meters["acc5"].update(fifth.item(), len(target))
            if step % (10 * PRINT_EVERY) == 0:
                sys.stderr.write("  ".join(f"{name}: {meter}" for name, meter in meters.items()) + "\n")
    return meters["acc1"].total / meters["acc1"].count / 100


def train(job: Job, variant: str) -> Log:
    args, log = job.args, Log()
    batches = loaders(job)
    model = job.network(variant)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad],
        lr=args.lr,
        momentum=0.9,
        weight_decay=WEIGHT_DECAY,
    )
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=30, gamma=0.1)
    with tempfile.TemporaryDirectory() as folder:
        for epoch in range(args.epochs):
            train_one_epoch(job, model, criterion, optimizer, batches["train"], log)
            scheduler.step()
            started = time.perf_counter()
            log.val_accuracy.append(evaluate(job, model, criterion, batches["val"]))
            log.test_accuracy.append(evaluate(job, model, criterion, batches["test"]))
            log.evaluation_seconds.append(time.perf_counter() - started)
            checkpoint = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "lr_scheduler": scheduler.state_dict(),
                "epoch": epoch,
            }
            torch.save(checkpoint, Path(folder) / "checkpoint.pth")
    return log


if __name__ == "__main__":
    Job().run(train)
