"""The loop of PyTorch's transfer-learning tutorial, told in our own words: what many would write first.

Each image is opened and decoded in every epoch; loss and hits are fetched from every step; a frozen layer is
one whose parameters take no gradient. Optimizer, learning rates and the BatchNorm statistics of frozen layers
are those of ours, so that accuracies can differ only by the images and by chance: the draws are not ours.

https://docs.pytorch.org/tutorials/beginner/transfer_learning_tutorial.html
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from torch import nn, optim
from torch.utils.data import DataLoader
from torchvision import transforms

from finetune.config.experiment import Recipe
from finetune.training.optimizer import learning_rate
from tests.benchmarks.job import MEAN, SPLITS, STD, Job, Log, Pictures, Waiting


def loaders(job: Job) -> dict[str, DataLoader]:
    args = job.args
    end = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    augment = [transforms.RandomResizedCrop(args.image_size), transforms.RandomHorizontalFlip()]
    centre = [transforms.Resize(round(args.image_size * 256 / 224)), transforms.CenterCrop(args.image_size)]
    return {
        split: DataLoader(
            Pictures(
                job.files[split], transforms.Compose([*(augment if split == "train" else centre), *end])
            ),
            batch_size=args.batch_size,
            shuffle=True,  # the held-out images too, as the tutorial does
            num_workers=args.workers,
        )
        for split in SPLITS
    }


def train(job: Job, variant: str) -> Log:
    args, log = job.args, Log()
    batches = loaders(job)
    model = job.network(variant)
    criterion = nn.CrossEntropyLoss()
    recipe = Recipe(epochs=args.epochs, batch_size=args.batch_size, lr=args.lr)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = optim.SGD(
        [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in trained if p.ndim == 1]},
        ],
        lr=1.0,  # the schedule's values are learning rates
        momentum=recipe.momentum,
        nesterov=True,
    )
    scheduler = optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate(step, len(batches["train"]), recipe, recipe.lr)
    )
    frozen = [m for m in model.children() if not any(p.requires_grad for p in m.parameters())]
    middle = len(batches["train"]) // 2
    with tempfile.TemporaryDirectory() as folder:
        best_path, best_accuracy = Path(folder) / "best.pt", -1.0
        for _ in range(args.epochs):
            evaluation = 0.0
            for split in SPLITS:
                training = split == "train"
                model.train(training)
                for layer in frozen:
                    layer.eval()
                running_loss, running_corrects, off = 0.0, 0, 0.0
                waiting = Waiting()
                started = time.perf_counter()
                for step, (images, labels) in enumerate(waiting(batches[split])):
                    images, labels = images.to(args.device), labels.to(args.device)
                    optimizer.zero_grad()
                    with torch.set_grad_enabled(training):
                        outputs = model(images)
                        loss = criterion(outputs, labels)
                        if training:
                            loss.backward()
                            optimizer.step()
                            scheduler.step()
                    running_loss += loss.item() * len(labels)
                    running_corrects += (outputs.argmax(dim=1) == labels).sum().item()
                    if training and step == middle:
                        off += job.look_at_workers()
                seconds = time.perf_counter() - started - off
                accuracy = running_corrects / len(job.files[split])
                if training:
                    log.train_seconds.append(seconds)
                    log.data_wait_seconds.append(waiting.seconds)
                    continue
                evaluation += seconds
                getattr(log, f"{split}_accuracy").append(accuracy)
                if split == "val" and accuracy > best_accuracy:
                    best_accuracy = accuracy
                    torch.save(model.state_dict(), best_path)
            log.evaluation_seconds.append(evaluation)
        model.load_state_dict(torch.load(best_path, weights_only=True))
    return log


if __name__ == "__main__":
    Job().run(train)
