"""One network of an experiment: initialized, trained with checkpoints, and calibrated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import safetensors.torch
import torch

from finetune.config.experiment import Variant
from finetune.data.augment import Views
from finetune.data.sources import WHOLE
from finetune.distributed.world import World
from finetune.errors import counted
from finetune.network.network import Network, fingerprint
from finetune.network.resnet18 import build
from finetune.run import records
from finetune.run.artifacts import keep_state
from finetune.run.prepare import Prepared
from finetune.run.records import Json
from finetune.run.report import epoch_line
from finetune.run.saving import Saving
from finetune.system.console import Reporter
from finetune.system.signals import Stopped
from finetune.training.calibration import calibrate
from finetune.training.evaluate import logits_of
from finetune.training.features import FeatureCache, FrozenPrefix
from finetune.training.record import Epoch, Training
from finetune.training.trainer import Trainer
from grader.submission import commitments


def begin(
    prepared: Prepared,
    variant: Variant,
    seed: int,
    peak: float,
    put: Callable[[Network], str | None] = lambda _: None,
) -> tuple[Network, Json, str | None]:
    """A variant's network before training, what the results say of it, and why it cannot train, or None.

    Args:
        prepared: the experiment.
        variant: one of it.
        seed: of initialization, order and augmentation.
        peak: learning rate.
        put: gives the network another one's head, if it is to have one; returns why it cannot, or None.
    """
    pretrained = prepared.weights.state if prepared.weights else None
    network = build(variant, len(prepared.splits.train.class_counts), seed, pretrained)
    missing = put(network)
    start = records.start_record(variant, seed, network, fingerprint(network.state_dict()), peak)
    return network, start, missing


def train(
    prepared: Prepared,
    epochs: int,
    start: Json,
    network: Network,
    saving: Saving,
    reporter: Reporter,
    ended: Callable[[Epoch, Network | None], None] = lambda _epoch, _best: None,
    track: Callable[[Sequence[Epoch]], None] = lambda _: None,
) -> Training:
    """Train a network and write checkpoints.

    After each epoch `ended` gets it, and the network if it is the best so far; `track` gets all so far.
    """
    config, world, checkpoints = prepared.config, saving.world, saving.checkpoints
    interrupt = saving.stop.check if world.size == 1 else lambda: None  # several processes stop together
    total = epochs * len(prepared.images.train)
    with reporter.training(checkpoints.stem, total) as advance, saving.stop.deferred():

        def step_ended(n_images: int) -> None:
            advance(n_images)
            saving.step_ended(trainer)

        def epoch_ended(epoch: Epoch) -> None:
            reporter.detail(epoch_line(start["variant"], epoch, epochs))
            ended(epoch, network if trainer.training.best_epoch == epoch.epoch else None)
            track(trainer.training.epochs)
            if checkpoints.keeps_best:
                keep_state(trainer, saving.folder, checkpoints.stem, config.keep_states)
            saving.epoch_ended(trainer)

        cache = prepared.features_of(start["variant"], start["frozen_sha256_before"])
        trainer = trainer_of(prepared, epochs, start, network, cache, world, interrupt)
        if checkpoints.restore(trainer):
            advance(trainer.training.images)
            reporter.detail(f"  resumed after {counted(trainer.training.steps, 'step')}")
        saving.require_same_start(trainer)
        try:
            training = trainer.run(epoch_ended, step_ended)
        except Stopped:
            saving.save(trainer)
            checkpoints.flush()
            raise
        checkpoints.flush()
    return training


def trainer_of(
    prepared: Prepared,
    epochs: int,
    start: Json,
    network: Network,
    cache: FeatureCache | None = None,
    world: World | None = None,
    interrupt: Callable[[], None] = lambda: None,
) -> Trainer:
    """A trainer of a network from `begin`, which it moves to its device.

    Args:
        prepared: the experiment.
        epochs: to train.
        start: what the results say of the network before training.
        network: to be trained.
        cache: of its frozen layers' features; None for one of its own.
        world: the processes that train it together.
        interrupt: called wherever it is safe to stop, but for the end of a step.
    """
    config = prepared.config
    recipe = dataclasses.replace(config.recipe, epochs=epochs)
    network.to(prepared.device).to(memory_format=torch.channels_last)
    views = Views(config.cache_views, config.seed) if isinstance(config.cache_views, int) else None
    return Trainer(
        network,
        prepared.images,
        recipe,
        FrozenPrefix(network, recipe, config.precision, views, cache, interrupt),
        peak=start["learning_rate"],
        seed=start["seed"],
        workers=prepared.workers,
        commitment=commitments.of_start(start, dataclasses.asdict(recipe)),
        world=world,
        batch_evaluated=interrupt,
    )


def calibration(
    prepared: Prepared, start: Json, network: Network, training: Training, saving: Saving
) -> Json | None:
    """The `calibration` object of a run; the network is left as it was after the best epoch."""
    if training.best_epoch is None or not saving.folder.writes:
        return None
    best = safetensors.torch.load(saving.checkpoints.best(training.best_epoch))
    network.load_state_dict(best)
    # With several processes, each has cached the features of its part only.
    cache = prepared.features_of(start["variant"], start["frozen_sha256_before"])
    config, held_out = prepared.config, prepared.images.held_out
    prefix = FrozenPrefix(
        network, config.recipe, config.precision, cache=cache if saving.world.size == 1 else None
    )

    def logits(split: str) -> Iterator[torch.Tensor]:
        """Those that predicted, or the same again."""
        if training.best_logits:
            yield from training.best_logits[split]
            return
        for batch in logits_of(network, prefix.held_out(split, held_out[split][0], WHOLE), prefix.precision):
            yield batch
            saving.stop.check()

    with torch.inference_mode():
        labels = {split: labels for split, (_, labels) in held_out.items()}
        found = calibrate(logits, labels, training.best_predictions)
    return dataclasses.asdict(found)
