"""What a frozen prefix makes of the images: it never changes, so it is computed once and kept.

Features are those of the prefix in eval mode, without a graph. They are never mirrored or cropped: the images
are, before the prefix sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch

from finetune.data.augment import Index
from finetune.data.store import allocate
from finetune.network.resnet18 import Network
from finetune.system.host import available_memory_bytes
from finetune.training.evaluate import normalised
from finetune.training.precision import mixed

SHARE_OF_MEMORY = 4
"""Features may take one part in so many of the memory that is free."""


@dataclass
class Features:
    """Kept outputs of one frozen prefix, shared by all runs that have it.

    Args:
        held_out: by split, the outputs of each batch; None before it is known whether there is room.
        views: by number, the outputs [n x channels x height x width] for one view of each training image.
    """

    held_out: dict[str, list[torch.Tensor]] | None = None
    views: dict[int, torch.Tensor] = field(default_factory=dict)


def features_bytes(network: Network, image_size: int, precision: str) -> int:
    """What the frozen prefix's output for one image takes."""
    device = next(network.parameters()).device
    network.eval()
    with mixed(precision, device):
        one = network.forward_frozen(torch.zeros(1, 3, image_size, image_size, device=device))
    return one.numel() * one.element_size()


def free_bytes(device: torch.device) -> int:
    """Memory that features may take on a device."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
    else:
        free = available_memory_bytes()
    return free // SHARE_OF_MEMORY


def view_features(
    network: Network,
    images: Iterable[tuple[Index, torch.Tensor]],
    n: int,
    precision: str,
    batch_ended: Callable[[], None],
) -> torch.Tensor:
    """The frozen prefix's outputs for one view of each training image.

    Args:
        network: left in eval mode.
        images: all n in their own order, whatever the epoch's, so that a resumed run gets the very same
            values: indices [b] and pixels [b x height x width x 3] uint8.
        n: how many.
        precision: `fp32` or `bf16`.
        batch_ended: called after each batch; may raise to stop.

    Returns:
        [n x channels x height x width], channels_last, or [n x channels] where only the head trains; on the
        device where a quarter of its free memory holds them, else in the host's memory or a temporary file.

    Raises:
        DataError: neither memory nor disk can hold them.
    """
    device = next(network.parameters()).device
    network.eval()
    kept = torch.empty(0)
    with mixed(precision, device):
        for index, pixels in images:
            part = network.forward_frozen(normalised(pixels, device))
            if len(kept) == 0:
                kept = _room(n, part)
            kept[int(index[0]) : int(index[-1]) + 1] = part
            batch_ended()
    return kept


def _room(n: int, part: torch.Tensor) -> torch.Tensor:
    n_bytes = n * part[0].numel() * part.element_size()
    if part.is_cuda and n_bytes < free_bytes(part.device):
        flat = torch.empty(n_bytes, dtype=torch.uint8, device=part.device)
    else:
        flat = torch.from_numpy(allocate(n_bytes))
    return flat.view(part.dtype).view(n, *part.shape[2:], part.shape[1]).movedim(-1, 1)
