"""Evaluation of one split."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator

import torch
from torch.nn import functional

from finetune.data.device import to_device
from finetune.network.fused import in_eval_mode
from finetune.network.network import Network
from finetune.training.precision import mixed
from finetune.training.record import Predictions

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's channel means and standard deviations, as torchvision's weights expect them."""


def normalized(pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Images [b x height x width x 3] uint8 to normalized float32 [b x 3 x height x width], channels_last."""
    scale, shift = _scale_and_shift(device)
    return to_device(pixels, device).permute(0, 3, 1, 2).float().div_(scale).sub_(shift)


@functools.cache
def _scale_and_shift(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Made once per device: making a tensor on a GPU synchronizes with it."""
    scale = torch.tensor([255 * s for s in STD], device=device)
    shift = torch.tensor([m / s for m, s in zip(MEAN, STD, strict=True)], device=device)
    return scale.view(1, 3, 1, 1), shift.view(1, 3, 1, 1)


@torch.inference_mode()
def evaluate(
    network: Network,
    batches: Iterable[torch.Tensor],
    labels: torch.Tensor,
    precision: str = "fp32",
    batch_ended: Callable[[], None] = lambda: None,
    keep: Callable[[torch.Tensor], None] = lambda _: None,
) -> Predictions:
    """Predict every image of a split.

    Args:
        network: left in eval mode.
        batches: the frozen prefix's outputs for the images, [b x ...] at a time, as `FrozenPrefix` gives
            them.
        labels: [n] int64.
        precision: `fp32` or `bf16`, of the convolutions; the loss is always computed in fp32.
        batch_ended: called after each batch; may raise to stop.
        keep: called with the logits [b x n_classes] of each batch.
    """
    truths = to_device(labels, network.device)
    predicted, nll, confidence = [], [], []
    n_seen = 0
    for logits in logits_of(network, batches, precision):
        truth = truths[n_seen : n_seen + len(logits)]
        n_seen += len(logits)
        predicted.append(logits.argmax(dim=1))
        nll.append(functional.cross_entropy(logits, truth, reduction="none"))
        confidence.append(logits.softmax(dim=1).amax(dim=1))
        keep(logits)
        batch_ended()
    return Predictions(*(torch.cat(parts).cpu().numpy() for parts in (predicted, nll, confidence)))


def logits_of(
    network: Network, batches: Iterable[torch.Tensor], precision: str = "fp32"
) -> Iterator[torch.Tensor]:
    """Logits [b x n_classes] float32 of each batch; the caller is in `torch.inference_mode()`.

    Args:
        network: left in eval mode.
        batches: the frozen prefix's outputs, [b x ...] at a time.
        precision: `fp32` or `bf16`, of the convolutions.
    """
    network.eval()
    with mixed(precision, network.device):
        suffix = in_eval_mode(network.suffix)
        for features in batches:
            yield suffix(features).float()
