"""BatchNorm statistics re-estimated on training images before an evaluation ("PreciseBN").

Running statistics are exponential averages over the last dozens of steps. After few steps, or while weights
move fast, they lag behind the network that is evaluated, and a network that fits its training images scores
near chance. Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm": average the statistics of some batches,
with the weights as they are.

Re-estimation changes no weight: in training, batches are normalized by statistics of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from finetune.config.experiment import Recipe
from finetune.network.network import Network

N_IMAGES = 512
"""Images whose statistics are averaged, or all that there are. With 256, 512 and 1,024 a network from random
weights scored the same on Flowers-102 at 64 px (docs/benchmarks.md)."""

FEW_STEPS = 200
"""With `statistics = "auto"`, they are re-estimated where training takes fewer steps than this.

With a momentum of 0.1, running statistics lag by about twenty steps. In the last twenty of 200 steps of
half a cosine the learning rate is below a fortieth of its peak, and the weights hardly move.
"""


def choose_statistics(recipe: Recipe, n_train: int) -> str:
    """`running` or `reestimated`, alike for all variants: what `auto` stands for with this many steps.

    Args:
        recipe: its choice, epochs and batch size.
        n_train: training images.
    """
    if recipe.statistics != "auto":
        return recipe.statistics
    steps = recipe.epochs * math.ceil(n_train / recipe.batch_size)
    return "reestimated" if steps < FEW_STEPS else "running"


def n_batches(n_train: int, batch_size: int) -> int:
    """How many batches to average: only whole ones, since all count the same, if there are any."""
    return max(1, min(n_train // batch_size, math.ceil(N_IMAGES / batch_size)))


@torch.no_grad()
def reestimate(
    network: Network, batches: Iterator[torch.Tensor], batch_ended: Callable[[], None] = lambda: None
) -> None:
    """Replace the statistics of every BatchNorm layer that gathers any by their means over batches.

    Statistics of frozen layers stay as they are, bit for bit.

    Args:
        network: left in training mode.
        batches: the frozen prefix's outputs for training images, [b x ...] at a time.
        batch_ended: called after each batch; may raise to stop.
    """
    network.train()
    suffix = network.suffix
    norms = [m for m in suffix.modules() if isinstance(m, nn.BatchNorm2d) and m.training]
    with _forgotten(norms):
        for number, features in enumerate(batches if norms else (), 1):
            for norm in norms:
                # Each batch counts the same. A momentum of None would do that too, but ask the GPU each time.
                norm.momentum = 1 / number
            suffix(features)
            batch_ended()


@contextmanager
def _forgotten(norms: list[nn.BatchNorm2d]) -> Iterator[None]:
    """Forget all statistics; the momentum may be changed meanwhile."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
