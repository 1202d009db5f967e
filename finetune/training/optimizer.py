"""The optimizer and its schedule."""

from __future__ import annotations

import math

import torch

from finetune.config.experiment import Recipe, Variant
from finetune.errors import ConfigError
from finetune.network.resnet18 import SINGLE_VALUE_PIXELS, Network


def learning_rate(step: int, steps_per_epoch: int, recipe: Recipe, peak: float) -> float:
    """Learning rate of a step (from 0): linear warm-up to `peak`, then half a cosine to zero.

    Loshchilov and Hutter 2017, "SGDR"; warm-up as in Goyal et al. 2017, "Accurate, large minibatch SGD".
    A job shorter than two warm-ups spends half of its steps on the warm-up.
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


def require_statistics(variant: Variant, n_train: int, recipe: Recipe, processes: int = 1) -> None:
    """Make sure that no step leaves batch normalisation with a single value a channel.

    Up to 32 pixels the last layers see one value a channel and image, whose variance needs a second image.

    Args:
        variant: which layers learn, and so gather statistics.
        n_train: training images.
        recipe: batch size and image size.
        processes: how many share a batch, each of them with statistics of its own.

    Raises:
        ConfigError: a step would have a single image and no statistics to normalise it by, or too few for
            all processes.
    """
    smallest = min(recipe.batch_size, n_train % recipe.batch_size or recipe.batch_size)
    if processes > 1 and smallest < 2 * processes:
        raise ConfigError(
            f"Each of {processes} processes needs two images of every batch, but {n_train} training images "
            f"in batches of {recipe.batch_size} leave one of {smallest}; use another --batch-size or fewer "
            "processes."
        )
    learns = any(group not in ("conv1", "fc") for group in variant.groups)
    single = recipe.batch_size == 1 or n_train % recipe.batch_size == 1
    if learns and single and recipe.image_size <= SINGLE_VALUE_PIXELS:
        raise ConfigError(
            f"Batch normalisation needs two images in each step, but {n_train} training images in batches "
            f"of {recipe.batch_size} leave a step with a single image at {recipe.image_size} pixels; use "
            f"another --batch-size, or an --image-size above {SINGLE_VALUE_PIXELS}."
        )
