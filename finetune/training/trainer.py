"""Train one variant with one seed, and choose its epoch on validation alone."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from copy import deepcopy

import numpy as np
import torch
from torch.nn import functional

from finetune.config.experiment import Recipe
from finetune.data.augment import plan_epoch
from finetune.data.device import to_device
from finetune.data.prepare import Images
from finetune.distributed.world import SingleProcess, World
from finetune.network.network import Network, fingerprint
from finetune.training.evaluate import evaluate, normalized
from finetune.training.features import FrozenPrefix
from finetune.training.optimizer import learning_rate, make_optimizer
from finetune.training.precision import mixed
from finetune.training.record import Epoch, Metrics, Pass, Predictions, Training, best_epoch
from finetune.training.requirements import evaluation_batch_size
from finetune.training.statistics import n_batches, reestimate
from grader.findings import rate_text
from grader.submission import commitments
from grader.submission.record import SPLITS

LOGITS_BYTES = 2**28
"""More than this is not kept of the best epoch's logits; calibration computes them again."""


class Trainer:
    """Trains one network. It can stop after any step and be resumed from there.

    Args:
        network: on its device, in channels_last; trained in place.
        images: the same for every variant.
        recipe: epochs, batch size, optimizer and augmentation.
        prefix: the network's, which knows the precision.
        peak: peak learning rate.
        seed: of order and augmentation.
        workers: threads that augment.
        commitment: to the run's start, from which each epoch's follows; empty to commit to nothing.
        world: the processes that train this network together.
        batch_evaluated: called after each batch of an evaluation; may raise to stop.
    """

    def __init__(
        self,
        network: Network,
        images: Images,
        recipe: Recipe,
        prefix: FrozenPrefix,
        *,
        peak: float,
        seed: int,
        workers: int,
        commitment: str = "",
        world: World | None = None,
        batch_evaluated: Callable[[], None] = lambda: None,
    ) -> None:
        self.network = network
        self.images = images
        self.recipe = recipe
        self.prefix = prefix
        self.peak = peak
        self.seed = seed
        self.workers = workers
        self.commitment = commitment
        self.world = world or SingleProcess()
        self.batch_evaluated = batch_evaluated
        self.device = network.device
        self.optimizer = make_optimizer(network, recipe, peak)
        self.steps_per_epoch = math.ceil(len(images.train) / recipe.batch_size)
        self.training = Training()
        self._suffix = self.world.wrap(network.suffix)
        # MPS has no float64: there each step waits for its loss.
        summing = torch.device("cpu") if self.device.type == "mps" else self.device
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=summing)
        self._n_correct = torch.zeros((), dtype=torch.int64, device=summing)

    def resume(self, training: Training) -> None:
        """Continue from a training record; network and optimizer must be in the state of that moment."""
        self.training = training
        # Only rank 0 starts from the sums so far, since the sums of all processes are added up.
        self._loss_sum.fill_(training.current.loss_sum if self.world.is_main else 0)
        self._n_correct.fill_(training.current.n_correct if self.world.is_main else 0)

    def run(
        self, epoch_ended: Callable[[Epoch], None], step_ended: Callable[[int], None] = lambda _: None
    ) -> Training:
        """Train for the recipe's remaining epochs, or until a loss is not finite.

        Callbacks that refer to this trainer are not kept: a cycle would hold the network's memory until the
        next garbage collection.

        Args:
            epoch_ended: called after each epoch; may raise to stop.
            step_ended: called with the number of images after each step; may raise to stop.
        """
        training = self.training
        if self.device.type == "cuda":
            self._warm_up()
        while len(training.epochs) < self.recipe.epochs and training.failure is None:
            number = len(training.epochs) + 1
            if training.current.batches < self.steps_per_epoch:
                self._pass(number, step_ended)
            started = time.perf_counter()
            if self.recipe.statistics == "reestimated":
                self._reestimate(number)
            predictions, logits = self._evaluate()
            self._conclude(number, predictions, logits, time.perf_counter() - started)
            if training.failure is None:
                epoch_ended(training.epochs[-1])
        return training

    def _warm_up(self) -> None:
        """Let a GPU's libraries load and choose their algorithms before the clock runs; trains a copy.

        On a CPU the first step takes no longer than the others.
        """
        copy, side, size = deepcopy(self.network), self.recipe.image_size, self.recipe.batch_size
        at_once = evaluation_batch_size(self.recipe, self.device)

        def batches_of(n: int, size: int) -> set[int]:
            return {min(n, size), n % size}

        in_train = batches_of(len(self.images.train), size)
        trained = {self.world.shard(np.arange(n)).size for n in in_train} - {0, 1}
        counts = [len(labels) for _, labels in self.images.held_out.values()]
        spans = (range(n)[self.world.shard_range(n)] for n in counts)
        evaluated = {n for span in spans for n in batches_of(len(span), at_once)} - {0}
        for n in trained | evaluated:
            pixels = torch.zeros(n, side, side, 3, dtype=torch.uint8)
            if n in trained:
                with mixed(self.prefix.precision, self.device):
                    logits = copy.train()(normalized(pixels, self.device))
                logits.float().sum().backward()
            with mixed(self.prefix.precision, self.device), torch.inference_mode():
                copy.eval()(normalized(pixels, self.device))

    def _pass(self, number: int, step_ended: Callable[[int], None] = lambda _: None) -> None:
        """The rest of a pass over the training split.

        Losses and correct predictions are summed on the device, so that no step waits for a copy from it.
        """
        training, current, size = self.training, self.training.current, self.recipe.batch_size
        plan = plan_epoch(self.seed, number, self.images.train.sizes, self.recipe, self.prefix.views)
        batches = [plan.order[i : i + size] for i in range(current.batches * size, len(plan.order), size)]
        asked, cpu_before = time.perf_counter(), time.process_time()
        shards = [self.world.shard(batch) for batch in batches]
        inputs, features_of = self.prefix.training(number, plan, shards, self.images.train, self.workers)
        self.network.train()
        if current.batches == 0:  # not earlier: a signal may stop the computation of cached features
            training.stream_sha256 = plan.digest(training.stream_sha256)
        for batch, (index, images) in zip(batches, inputs, strict=True):
            current.wait_seconds += time.perf_counter() - asked
            rate = learning_rate(training.steps, self.steps_per_epoch, self.recipe, self.peak)
            labels = to_device(self.images.train_labels[torch.from_numpy(index)], self.device)
            with mixed(self.prefix.precision, self.device):
                logits = self._suffix(features_of(images))
            self._step(rate, logits, labels, len(batch))
            current.rate_sum += rate
            current.batches += 1
            current.samples += len(batch)
            training.steps += 1
            training.images += len(batch)
            current.seconds += time.perf_counter() - asked
            current.cpu_seconds += time.process_time() - cpu_before
            step_ended(len(batch))  # not timed: it may write a checkpoint
            asked, cpu_before = time.perf_counter(), time.process_time()
        self.settle()  # synchronizes with the device, so that its last steps are timed
        current.seconds += time.perf_counter() - asked
        current.cpu_seconds += time.process_time() - cpu_before

    def settle(self) -> None:
        """Copy the sums of the unfinished pass from the device into the training record."""
        loss_sum, n_correct = self.world.all_reduce_sum(self._loss_sum, self._n_correct)
        self.training.current.loss_sum = loss_sum
        self.training.current.n_correct = int(n_correct)

    def _step(self, rate: float, logits: torch.Tensor, labels: torch.Tensor, batch_size: int) -> None:
        """One optimizer step on this process's shard of a batch.

        Args:
            rate: learning rate.
            logits: [b x n_classes].
            labels: [b].
            batch_size: images in the whole batch.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = functional.cross_entropy(logits.float(), labels)
        self.optimizer.zero_grad()
        weight = len(labels) * self.world.size / batch_size  # the processes' gradients are averaged
        (loss * weight).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        summing = self._loss_sum.device
        self._loss_sum += loss.detach().to(summing).double() * len(labels)
        self._n_correct += (logits.detach().argmax(dim=1) == labels).sum().to(summing)

    def _reestimate(self, number: int) -> None:
        """Re-estimate BatchNorm statistics on the epoch's first images, cropped and mirrored as they were.

        These are the statistics that the running averages lag behind, they need no other view of the images,
        and cached features serve here too. Each process takes its shards; rank 0's statistics count.
        """
        plan = plan_epoch(self.seed, number, self.images.train.sizes, self.recipe, self.prefix.views)
        size = self.recipe.batch_size
        starts = range(0, n_batches(len(plan.order), size) * size, size)
        shards = [self.world.shard(plan.order[i : i + size]) for i in starts]
        inputs, features_of = self.prefix.training(number, plan, shards, self.images.train, self.workers)
        with mixed(self.prefix.precision, self.device):
            reestimate(self.network, (features_of(images) for _, images in inputs), self.batch_evaluated)

    def _evaluate(self) -> tuple[dict[str, Predictions], dict[str, list[torch.Tensor]]]:
        """Predictions for the held-out splits, by all processes together, and the logits behind them.

        Logits are left out of trials, which are not calibrated, and where several processes have a part each.
        """
        self.world.broadcast(self.network.buffers())
        n_logits = self.network.n_classes * sum(len(labels) for _, labels in self.images.held_out.values())
        keeps = "test" in self.images.held_out and self.world.size == 1 and 4 * n_logits <= LOGITS_BYTES
        logits: dict[str, list[torch.Tensor]] = {s: [] for s in self.images.held_out}
        predictions = {}
        for split, (images, labels) in self.images.held_out.items():
            part = self.world.shard_range(len(labels))
            found = evaluate(
                self.network,
                self.prefix.held_out(split, images, part),
                labels[part],
                self.prefix.precision,
                self.batch_evaluated,
                logits[split].append if keeps else lambda _: None,
            )
            gather = self.world.all_gather
            predictions[split] = Predictions(
                gather(found.predicted), gather(found.nll), gather(found.confidence)
            )
        return predictions, logits if keeps else {}

    def _conclude(
        self,
        number: int,
        predictions: dict[str, Predictions],
        logits: dict[str, list[torch.Tensor]],
        evaluation_seconds: float,
    ) -> None:
        """Record an epoch, and store its predictions if it is the best so far."""
        training, current = self.training, self.training.current
        train = Metrics(current.loss_sum, current.n_correct, current.samples)
        held_out = {s: p.metrics(self.images.held_out[s][1].numpy()) for s, p in predictions.items()}
        if not all(math.isfinite(m.loss_sum) for m in (train, *held_out.values())):
            training.failure = (
                f"In epoch {number} the loss was no longer finite at a peak learning rate of "
                f"{rate_text(self.peak)}; use a lower one."
            )
            return
        epoch = Epoch(
            epoch=number,
            learning_rate=current.rate_sum / current.batches,
            train=train,
            val=held_out["val"],
            test=held_out.get("test"),
            train_seconds=current.seconds,
            train_cpu_seconds=current.cpu_seconds,
            data_wait_seconds=current.wait_seconds,
            evaluation_seconds=evaluation_seconds,
        )
        training.epochs.append(self._committed(epoch, predictions) if self.commitment else epoch)
        training.current = Pass()
        self._loss_sum.zero_()
        self._n_correct.zero_()
        training.best_epoch = best_epoch(training.epochs)
        if training.best_epoch == number:
            training.best_predictions = predictions
            training.best_logits = logits

    def _committed(self, epoch: Epoch, predictions: dict[str, Predictions]) -> Epoch:
        """The epoch with its hashes; off the clocks."""
        weights = fingerprint(self.network.state_dict())
        found = [predictions[split] for split in SPLITS if split in predictions]  # a trial has no test images
        columns = [(split.predicted, split.nll, split.confidence) for split in found]
        answers = commitments.of_predictions(columns)
        before = self.training.epochs[-1].commitment if self.training.epochs else self.commitment
        commitment = commitments.of_epoch(before, epoch, weights, answers)
        return dataclasses.replace(
            epoch, weights_sha256=weights, predictions_sha256=answers, commitment=commitment
        )
