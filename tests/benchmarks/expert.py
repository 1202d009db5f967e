"""The loop of somebody who knows GPUs: bf16, channels_last, pinned memory, workers that stay and fetch ahead.

Images are decoded in every epoch, cropped by torchvision's v2 transforms as uint8 tensors, and normalized on
the device. Nothing is fetched from the device before an epoch ends, the optimizer is fused, and evaluation
takes larger batches. Optimizer and learning rates are those of ours. Not compiled: a job of a minute or two
hardly repays it.
"""

from __future__ import annotations

import time

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from finetune.config.experiment import Recipe
from finetune.training.optimizer import learning_rate
from tests.benchmarks.job import MEAN, SPLITS, STD, Job, Log, Pictures, Waiting

EVALUATED_AT_ONCE = 256
FETCHED_AHEAD = 4


def loaders(job: Job) -> dict[str, DataLoader]:
    args = job.args
    augment = [v2.RandomResizedCrop(args.image_size, antialias=True), v2.RandomHorizontalFlip()]
    centre = [
        v2.Resize(round(args.image_size * 256 / 224), antialias=True),
        v2.CenterCrop(args.image_size),
    ]
    ahead = {"prefetch_factor": FETCHED_AHEAD, "persistent_workers": True} if args.workers else {}
    return {
        split: DataLoader(
            Pictures(
                job.files[split], v2.Compose([v2.PILToTensor(), *(augment if split == "train" else centre)])
            ),
            batch_size=args.batch_size if split == "train" else max(args.batch_size, EVALUATED_AT_ONCE),
            shuffle=split == "train",
            num_workers=args.workers,
            pin_memory=args.device == "cuda",
            **ahead,
        )
        for split in SPLITS
    }


class Loop:
    """One variant's network and optimizer."""

    def __init__(self, job: Job, variant: str, n_steps: int) -> None:
        self.device = torch.device(job.args.device)
        self.model = job.network(variant).to(memory_format=torch.channels_last)
        children = list(self.model.children())
        self.frozen = [m for m in children if not any(p.requires_grad for p in m.parameters())]
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.recipe = Recipe(epochs=job.args.epochs, batch_size=job.args.batch_size, lr=job.args.lr)
        self.n_steps, self.step = n_steps, 0
        self.optimizer = torch.optim.SGD(
            [
                {"params": [p for p in trained if p.ndim > 1], "weight_decay": self.recipe.weight_decay},
                {"params": [p for p in trained if p.ndim == 1]},
            ],
            lr=self.recipe.lr,
            momentum=self.recipe.momentum,
            nesterov=True,
            fused=True,
        )
        self.mean, self.std = (torch.tensor(v, device=self.device).view(1, 3, 1, 1) for v in (MEAN, STD))

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        images = images.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16):
            found: torch.Tensor = self.model(images.float().div_(255).sub_(self.mean).div_(self.std))
        return found.float()

    def train(self, batches: Waiting, loader: DataLoader) -> None:
        self.model.train()
        for layer in self.frozen:
            layer.eval()
        for images, labels in batches(loader):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.step, self.n_steps, self.recipe, self.recipe.lr)
            loss = functional.cross_entropy(self.logits(images), labels.to(self.device, non_blocking=True))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.step += 1
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    @torch.inference_mode()
    def accuracy(self, loader: DataLoader) -> float:
        self.model.eval()
        hits = torch.zeros((), dtype=torch.int64, device=self.device)
        n = 0
        for images, labels in loader:
            hits += (self.logits(images).argmax(dim=1) == labels.to(self.device, non_blocking=True)).sum()
            n += len(labels)
        return hits.item() / n


def train(job: Job, variant: str) -> Log:
    log, batches = Log(), loaders(job)
    torch.backends.cudnn.benchmark = True
    loop = Loop(job, variant, len(batches["train"]))
    best: tuple[float, dict[str, nn.Parameter]] = (-1.0, {})
    for _ in range(job.args.epochs):
        waiting, started = Waiting(), time.perf_counter()
        loop.train(waiting, batches["train"])
        trained = time.perf_counter()
        log.train_seconds.append(trained - started)
        log.data_wait_seconds.append(waiting.seconds)
        log.val_accuracy.append(loop.accuracy(batches["val"]))
        log.test_accuracy.append(loop.accuracy(batches["test"]))
        log.evaluation_seconds.append(time.perf_counter() - trained)
        if log.val_accuracy[-1] > best[0]:
            best = log.val_accuracy[-1], {n: t.clone() for n, t in loop.model.state_dict().items()}
    job.look_at_workers()
    return log


if __name__ == "__main__":
    Job().run(train)
