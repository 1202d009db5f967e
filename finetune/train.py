"""Train one variant with one seed, and choose its epoch on validation alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional

from finetune.augment import batches, plan_epoch
from finetune.config import Recipe
from finetune.evaluate import Metrics, Predictions, evaluate, normalised
from finetune.models import Network
from finetune.store import Store
from finetune.weights import State


@dataclass(frozen=True)
class Images:
    """Decoded images and labels of the three splits.

    Args:
        train: store of training images.
        train_labels: [n_train] int64.
        held_out: `val` and `test` as (pixels [n x height x width x 3] uint8, labels [n] int64).
    """

    train: Store
    train_labels: torch.Tensor
    held_out: dict[str, tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Epoch:
    """One pass over the training split and the evaluations after it; times in seconds."""

    epoch: int
    learning_rate: float
    train: Metrics
    val: Metrics
    test: Metrics
    train_seconds: float
    data_wait_seconds: float
    evaluation_seconds: float


@dataclass
class Training:
    """What training one variant with one seed produced so far.

    Args:
        epochs: completed ones, in order.
        steps: optimizer steps taken.
        images: images those steps saw.
        stream_sha256: digest of every order, crop and flip consumed.
        best_epoch: number of the chosen epoch; None before the first.
        best_state: parameters and buffers after that epoch, on the CPU.
        best_predictions: `val` and `test` predictions after that epoch.
        failure: why training stopped early, or None.
    """

    epochs: list[Epoch] = field(default_factory=list)
    steps: int = 0
    images: int = 0
    stream_sha256: str = ""
    best_epoch: int | None = None
    best_state: State | None = None
    best_predictions: dict[str, Predictions] | None = None
    failure: str | None = None


def best_epoch(epochs: Sequence[Epoch]) -> int:
    """Number of the epoch with the highest validation accuracy, ties by lower validation loss, then the earlier."""
    return min(epochs, key=lambda e: (-e.val.n_correct, e.val.loss_sum, e.epoch)).epoch


def learning_rate(step: int, steps_per_epoch: int, recipe: Recipe, peak: float) -> float:
    """Learning rate of a step (from 0): linear warm-up to `peak`, then half a cosine to zero.

    Loshchilov and Hutter 2017, "SGDR"; warm-up as in Goyal et al. 2017, "Accurate, large minibatch SGD".
    """
    warmup = min(recipe.warmup_epochs, recipe.epochs / 2) * steps_per_epoch
    total = recipe.epochs * steps_per_epoch
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return peak * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2


def make_optimizer(network: Network, recipe: Recipe, peak: float) -> torch.optim.SGD:
    """SGD with Nesterov momentum over the trainable parameters; biases and BatchNorm take no weight decay."""
    parameters = [p for _, p in network.trainable()]
    return torch.optim.SGD(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=peak,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
    )


class Trainer:
    """Trains one network; holds what its epochs share.

    Args:
        network: at its start; trained in place.
        images: the same for every variant.
        recipe: epochs, batch size, optimizer and augmentation.
        peak: peak learning rate.
        seed: of order and augmentation.
        device: where to train.
        workers: threads that augment.
        tick: called with the number of images after each step.
    """

    def __init__(
        self,
        network: Network,
        images: Images,
        recipe: Recipe,
        *,
        peak: float,
        seed: int,
        device: torch.device,
        workers: int,
        tick: Callable[[int], None],
    ) -> None:
        self.network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.images = images
        self.recipe = recipe
        self.peak = peak
        self.seed = seed
        self.device = device
        self.workers = workers
        self.tick = tick
        self.optimizer = make_optimizer(network, recipe, peak)
        self.steps_per_epoch = math.ceil(len(images.train) / recipe.batch_size)

    def run(self, ended: Callable[[Epoch], None]) -> Training:
        """Train for the recipe's epochs, evaluating after each, or until a loss is no finite number.

        Args:
            ended: called after each epoch.
        """
        done = Training()
        with ThreadPoolExecutor(self.workers) as pool:
            for number in range(1, self.recipe.epochs + 1):
                started = time.perf_counter()
                seen, rate, waited = self._train_epoch(number, done, pool)
                trained = time.perf_counter()
                predictions = self._evaluate()
                held_out = {s: p.metrics(self.images.held_out[s][1].numpy()) for s, p in predictions.items()}
                evaluated = time.perf_counter()
                if not all(math.isfinite(m.loss_sum) for m in (seen, *held_out.values())):
                    done.failure = (
                        f"In epoch {number} the loss stopped being a finite number at a peak learning rate of "
                        f"{self.peak:g}; try a lower one."
                    )
                    return done
                done.epochs.append(
                    Epoch(
                        epoch=number,
                        learning_rate=rate,
                        train=seen,
                        **held_out,
                        train_seconds=trained - started,
                        data_wait_seconds=waited,
                        evaluation_seconds=evaluated - trained,
                    )
                )
                if best_epoch(done.epochs) == number:
                    done.best_epoch = number
                    done.best_predictions = predictions
                    done.best_state = {
                        n: t.cpu().clone(memory_format=torch.contiguous_format)
                        for n, t in self.network.state_dict().items()
                    }
                ended(done.epochs[-1])
        return done

    def _train_epoch(self, number: int, done: Training, pool: ThreadPoolExecutor) -> tuple[Metrics, float, float]:
        """One pass over the training split: metrics, mean learning rate, seconds spent waiting for images.

        Sums stay on the device until the pass ends, so that no step waits for a copy.
        """
        self.network.train()
        plan = plan_epoch(self.seed, number, self.images.train.sizes, self.recipe)
        done.stream_sha256 = plan.digest(done.stream_sha256)
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        n_correct = torch.zeros((), dtype=torch.int64, device=self.device)
        rates, waited, asked = [], 0.0, time.perf_counter()
        for index, pixels in batches(
            self.images.train, plan, self.recipe.batch_size, self.recipe.image_size, pool
        ):
            waited += time.perf_counter() - asked
            rates.append(learning_rate(done.steps, self.steps_per_epoch, self.recipe, self.peak))
            for group in self.optimizer.param_groups:
                group["lr"] = rates[-1]
            labels = self.images.train_labels[torch.from_numpy(index)].to(self.device)
            logits = self.network(normalised(torch.from_numpy(pixels), self.device))
            loss = functional.cross_entropy(logits, labels)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            loss_sum += loss.detach().double() * len(index)
            n_correct += (logits.detach().argmax(dim=1) == labels).sum()
            done.steps += 1
            done.images += len(index)
            self.tick(len(index))
            asked = time.perf_counter()
        metrics = Metrics(loss_sum.item(), int(n_correct.item()), len(plan.order))
        return metrics, float(np.mean(rates)), waited

    def _evaluate(self) -> dict[str, Predictions]:
        return {
            split: evaluate(self.network, pixels, labels, self.recipe.batch_size, self.device)
            for split, (pixels, labels) in self.images.held_out.items()
        }
