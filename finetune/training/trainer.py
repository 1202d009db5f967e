"""Train one variant with one seed, and choose its epoch on validation alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional

from finetune.config.experiment import Recipe
from finetune.data.augment import Index, Plan, Views, batches, plan_epoch
from finetune.data.device import to_device
from finetune.data.prepare import Images
from finetune.distributed.world import SingleProcess, World
from finetune.network.resnet18 import Network
from finetune.training.evaluate import Metrics, Predictions, evaluate, normalised
from finetune.training.features import Features, features_bytes, free_bytes, view_features
from finetune.training.optimizer import learning_rate, make_optimizer
from finetune.training.precision import mixed


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
class Pass:
    """The sums of the pass over the training split that is under way."""

    batches: int = 0
    samples: int = 0
    loss_sum: float = 0.0
    n_correct: int = 0
    rate_sum: float = 0.0
    seconds: float = 0.0
    wait_seconds: float = 0.0


@dataclass
class Training:
    """What training one variant with one seed has produced so far.

    Args:
        epochs: completed ones, in order.
        current: the pass under way.
        steps: optimizer steps taken.
        images: images those steps saw.
        stream_sha256: digest of every order, crop and flip of the passes begun.
        best_epoch: number of the chosen epoch; None before the first.
        best_predictions: `val` and `test` predictions after that epoch.
        failure: why training stopped early, or None.
        seconds: spent on this run before it was last resumed.
    """

    epochs: list[Epoch] = field(default_factory=list)
    current: Pass = field(default_factory=Pass)
    steps: int = 0
    images: int = 0
    stream_sha256: str = ""
    best_epoch: int | None = None
    best_predictions: dict[str, Predictions] = field(default_factory=dict)
    failure: str | None = None
    seconds: float = 0.0


def best_epoch(epochs: Sequence[Epoch]) -> int:
    """The epoch with the highest validation accuracy, ties by lower validation loss, then the earlier."""
    return min(epochs, key=lambda e: (-e.val.n_correct, e.val.loss_sum, e.epoch)).epoch


class Trainer:
    """Trains one network; holds what its epochs share. It can stop after any step and go on from there.

    Args:
        network: at its start; trained in place.
        images: the same for every variant.
        recipe: epochs, batch size, optimizer and augmentation.
        peak: peak learning rate.
        seed: of order and augmentation.
        device: where to train.
        workers: threads that augment.
        precision: `fp32` or `bf16`.
        views: the augmented views to use in turn; None draws fresh ones.
        features: kept outputs of the network's frozen prefix.
        world: the processes that train this network together.
        step_ended: called with the number of images after each step; may raise to stop.
        batch_evaluated: called after each batch of an evaluation; may raise to stop.
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
        precision: str = "fp32",
        views: Views | None = None,
        features: Features | None = None,
        world: World | None = None,
        step_ended: Callable[[int], None] = lambda _: None,
        batch_evaluated: Callable[[], None] = lambda: None,
    ) -> None:
        self.network = network.to(device=device, memory_format=torch.channels_last)
        self.images = images
        self.recipe = recipe
        self.peak = peak
        self.seed = seed
        self.device = device
        self.workers = workers
        self.precision = precision
        self.views = views
        self.features = features or Features()
        self.world = world or SingleProcess()
        self.step_ended = step_ended
        self.batch_evaluated = batch_evaluated
        self.optimizer = make_optimizer(network, recipe, peak)
        self.steps_per_epoch = math.ceil(len(images.train) / recipe.batch_size)
        self.training = Training()
        self._wrapped = self.world.wrap(self.network)
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self._n_correct = torch.zeros((), dtype=torch.int64, device=device)

    def resume(self, training: Training) -> None:
        """Go on from a training record; network and optimizer must be as they were then."""
        self.training = training
        first = self.world.is_main  # the others begin with nothing, since the sums of all are added up
        self._loss_sum.fill_(training.current.loss_sum if first else 0)
        self._n_correct.fill_(training.current.n_correct if first else 0)

    def run(self, epoch_ended: Callable[[Epoch], None]) -> Training:
        """Train for the recipe's remaining epochs, or until a loss is no finite number.

        Args:
            epoch_ended: called after each epoch; may raise to stop.
        """
        training = self.training
        if self.device.type == "cuda":
            self._warm_up()
        with ThreadPoolExecutor(self.workers) as pool:
            while len(training.epochs) < self.recipe.epochs and training.failure is None:
                number = len(training.epochs) + 1
                if training.current.batches < self.steps_per_epoch:
                    self._pass(number, pool)
                started = time.perf_counter()
                predictions = self._evaluate()
                self._conclude(number, predictions, time.perf_counter() - started)
                if training.failure is None:
                    epoch_ended(training.epochs[-1])
        return training

    def _warm_up(self) -> None:
        """Let a GPU's libraries load and choose their algorithms before the clock runs; nothing is learnt.

        A processor's first step takes no longer than the others.
        """
        copy, side, size = deepcopy(self.network), self.recipe.image_size, self.recipe.batch_size

        def batches_of(n: int) -> set[int]:
            return {min(n, size), n % size}

        trained = {self.world.shard(np.arange(n)).size for n in batches_of(len(self.images.train))} - {0, 1}
        spans = (
            range(len(labels))[self.world.shard_range(len(labels))]
            for _, labels in self.images.held_out.values()
        )
        evaluated = {n for span in spans for n in batches_of(len(span))} - {0}
        for n in trained | evaluated:
            pixels = torch.zeros(n, side, side, 3, dtype=torch.uint8)
            if n in trained:
                with mixed(self.precision, self.device):
                    logits = copy.train()(normalised(pixels, self.device))
                logits.float().sum().backward()
            with mixed(self.precision, self.device), torch.inference_mode():
                copy.eval()(normalised(pixels, self.device))

    def _pass(self, number: int, pool: ThreadPoolExecutor) -> None:
        """What is left of a pass over the training split.

        Loss and hits are summed on the device, so that no step waits for a copy from it.
        """
        training, current, size = self.training, self.training.current, self.recipe.batch_size
        plan = plan_epoch(self.seed, number, self.images.train.sizes, self.recipe, self.views)
        left = [plan.order[i : i + size] for i in range(current.batches * size, len(plan.order), size)]
        asked = time.perf_counter()
        inputs = self._inputs(number, plan, [self.world.shard(batch) for batch in left], pool)
        if current.batches == 0:  # not before: computing features may be stopped
            training.stream_sha256 = plan.digest(training.stream_sha256)
        for batch, (index, images) in zip(left, inputs, strict=True):
            current.wait_seconds += time.perf_counter() - asked
            rate = learning_rate(training.steps, self.steps_per_epoch, self.recipe, self.peak)
            labels = to_device(self.images.train_labels[torch.from_numpy(index)], self.device)
            self._step(rate, images, labels, len(batch))
            current.rate_sum += rate
            current.batches += 1
            current.samples += len(batch)
            training.steps += 1
            training.images += len(batch)
            current.seconds += time.perf_counter() - asked
            self.step_ended(len(batch))  # off the clock: it may write a checkpoint
            asked = time.perf_counter()
        self.settle()  # waits for the device, so its last steps are on the clock
        current.seconds += time.perf_counter() - asked

    def _inputs(
        self, number: int, plan: Plan, parts: list[Index], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[Index, torch.Tensor]]:
        """Images of each part of the training split or, where they are kept, the frozen prefix's outputs."""
        ahead_by = max(2, self.workers)
        if self.views is None or self.network.first_trained == 0:
            self.network.train()
            return batches(self.images.train, plan, parts, self.recipe.image_size, pool, ahead_by)
        view = self.views.of_epoch(number)
        if view not in self.features.views:
            every = np.array_split(np.arange(len(plan.order)), self.steps_per_epoch)
            images = batches(self.images.train, plan, every, self.recipe.image_size, pool, ahead_by)
            self.features.views[view] = view_features(
                self.network, images, len(plan.order), self.precision, self.batch_evaluated
            )
        self.network.train()
        kept = self.features.views[view]
        places = (to_device(torch.from_numpy(index), kept.device) for index in parts)
        return (
            (index, to_device(kept[place], self.device)) for index, place in zip(parts, places, strict=True)
        )

    def settle(self) -> None:
        """Bring the sums of the pass under way from the device into the training record."""
        loss_sum, n_correct = self.world.all_reduce_sum(self._loss_sum, self._n_correct)
        self.training.current.loss_sum = loss_sum
        self.training.current.n_correct = int(n_correct)

    def _step(self, rate: float, inputs: torch.Tensor, labels: torch.Tensor, batch_size: int) -> None:
        """One optimizer step on this process's share of a batch.

        Args:
            rate: learning rate.
            inputs: images [b x height x width x 3] uint8, or the frozen prefix's outputs for them.
            labels: [b].
            batch_size: images in the whole batch.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with mixed(self.precision, self.device):
            if inputs.dtype == torch.uint8:
                logits = self._wrapped(normalised(inputs, self.device))
            else:
                logits = self.network.forward_trained(inputs)
        loss = functional.cross_entropy(logits.float(), labels)
        self.optimizer.zero_grad()
        share = len(labels) * self.world.size / batch_size  # the processes average their gradients
        (loss * share).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self._loss_sum += loss.detach().double() * len(labels)
        self._n_correct += (logits.detach().argmax(dim=1) == labels).sum()

    def _evaluate(self) -> dict[str, Predictions]:
        """Predictions for validation and test; the frozen prefix sees them once, if there is room."""
        if self.features.held_out is None:
            self.features.held_out = self._places_for_features()
        self.world.broadcast(self.network.buffers())
        predictions = {}
        for split, (pixels, labels) in self.images.held_out.items():
            mine = self.world.shard_range(len(labels))
            part = evaluate(
                self.network,
                pixels[mine],
                labels[mine],
                self.recipe.batch_size,
                self.device,
                self.batch_evaluated,
                self.features.held_out.get(split),
                self.precision,
            )
            predictions[split] = Predictions(
                self.world.all_gather(part.predicted), self.world.all_gather(part.nll)
            )
        return predictions

    def _places_for_features(self) -> dict[str, list[torch.Tensor]]:
        """Where to keep the frozen prefix's outputs for held-out images, if it has any and there is room."""
        if self.network.first_trained == 0:
            return {}
        n_images = sum(len(labels) for _, labels in self.images.held_out.values())
        n_bytes = n_images * features_bytes(self.network, self.recipe.image_size, self.precision)
        return {split: [] for split in self.images.held_out} if n_bytes < free_bytes(self.device) else {}

    def _conclude(self, number: int, predictions: dict[str, Predictions], evaluation_seconds: float) -> None:
        """Record an epoch, and keep its predictions if it is the best so far."""
        training, current = self.training, self.training.current
        seen = Metrics(current.loss_sum, current.n_correct, current.samples)
        held_out = {s: p.metrics(self.images.held_out[s][1].numpy()) for s, p in predictions.items()}
        if not all(math.isfinite(m.loss_sum) for m in (seen, *held_out.values())):
            training.failure = (
                f"In epoch {number} the loss stopped being a finite number at a peak learning rate of "
                f"{self.peak:g}; try a lower one."
            )
            return
        training.epochs.append(
            Epoch(
                epoch=number,
                learning_rate=current.rate_sum / current.batches,
                train=seen,
                **held_out,
                train_seconds=current.seconds,
                data_wait_seconds=current.wait_seconds,
                evaluation_seconds=evaluation_seconds,
            )
        )
        training.current = Pass()
        self._loss_sum.zero_()
        self._n_correct.zero_()
        training.best_epoch = best_epoch(training.epochs)
        if training.best_epoch == number:
            training.best_predictions = predictions
