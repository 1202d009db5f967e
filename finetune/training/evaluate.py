"""Evaluation of one split: counts and sums; ratios are derived later."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from finetune.data.device import to_device
from finetune.data.stream import Stream
from finetune.network.resnet18 import Network
from finetune.training.precision import mixed

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's channel means and standard deviations, as torchvision's weights expect them."""


@dataclass(frozen=True)
class Metrics:
    """Sums over a split: cross-entropy in nats, correct predictions, samples."""

    loss_sum: float
    n_correct: int
    n_samples: int

    @property
    def accuracy(self) -> float:
        """Share of correct predictions."""
        return self.n_correct / self.n_samples

    @property
    def loss(self) -> float:
        """Mean cross-entropy, nats."""
        return self.loss_sum / self.n_samples


@dataclass(frozen=True)
class Predictions:
    """What a network says of each image of a split, in the split's order.

    Args:
        predicted: [n] most likely class.
        nll: [n] float32 negative log-likelihood of the label, nats.
    """

    predicted: npt.NDArray[np.int64]
    nll: npt.NDArray[np.float32]

    def metrics(self, labels: npt.NDArray[np.int64]) -> Metrics:
        """Sums against labels [n], in float64."""
        return Metrics(
            loss_sum=float(self.nll.sum(dtype=np.float64)),
            n_correct=int((self.predicted == labels).sum()),
            n_samples=len(labels),
        )


def normalised(pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Images [b x height x width x 3] uint8 to normalised float32 [b x 3 x height x width], channels_last."""
    scale, shift = _scale_and_shift(device)
    return to_device(pixels, device).permute(0, 3, 1, 2).float().div_(scale).sub_(shift)


@functools.cache
def _scale_and_shift(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Made once: making a tensor on a GPU waits for it."""
    scale = torch.tensor([255 * s for s in STD], device=device)
    shift = torch.tensor([m / s for m, s in zip(MEAN, STD, strict=True)], device=device)
    return scale.view(1, 3, 1, 1), shift.view(1, 3, 1, 1)


@torch.inference_mode()
def evaluate(
    network: Network,
    pixels: torch.Tensor | Stream,
    labels: torch.Tensor,
    batch_size: int,
    device: torch.device,
    batch_ended: Callable[[], None] = lambda: None,
    kept: list[torch.Tensor] | None = None,
    precision: str = "fp32",
) -> Predictions:
    """Predict every image of a split.

    Args:
        network: left in eval mode.
        pixels: [n x height x width x 3] uint8, or what decodes them in batches.
        labels: [n] int64.
        batch_size: images at a time; results do not depend on it beyond rounding.
        device: where the network is.
        batch_ended: called after each batch; may raise to stop.
        kept: the frozen prefix's outputs for these batches of these images, used in place of computing them;
            an empty list is filled. None computes and keeps nothing.
        precision: `fp32` or `bf16`, of the convolutions; the loss is always computed in fp32.
    """
    network.eval()
    predicted, nll, seen = [], [], []
    computed = (network.forward_frozen(normalised(part, device)) for part in pixels.split(batch_size))
    with mixed(precision, device):
        trained = network.trained_in_eval_mode()
        truths = torch.split(to_device(labels, device), batch_size)
        for features, truth in zip(kept or computed, truths, strict=True):
            if kept is not None:
                seen.append(features)
            logits = trained(features).float()
            predicted.append(logits.argmax(dim=1))
            nll.append(functional.cross_entropy(logits, truth, reduction="none"))
            batch_ended()
    if kept is not None:
        kept[:] = seen
    return Predictions(torch.cat(predicted).cpu().numpy(), torch.cat(nll).cpu().numpy())
