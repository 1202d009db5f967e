"""The precision that convolutions and matrix products are computed in: fp32 or bf16."""

from __future__ import annotations

import torch

from finetune.errors import ConfigError
from finetune.network.resnet18 import ONE_PIXEL


def choose_precision(precision: str, device: torch.device, image_size: int) -> str:
    """`fp32` or `bf16` for `auto`, or what was asked for.

    A device with instructions for bf16 needs about half of fp32's time; a processor without them needs ten
    times as much, so there it is refused. So it is on a processor for images of up to 16 pixels: a strided
    convolution sees a single one then, and oneDNN 3.13 leaves part of its bf16 weight gradient unwritten.

    Raises:
        ConfigError: `bf16` on a device that has no instructions for it.
    """
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = torch.cpu._is_avx512_bf16_supported() and image_size > ONE_PIXEL
    if precision == "bf16" and not able:
        raise ConfigError(
            "--precision bf16 needs a device that computes in it (an NVIDIA GPU since Ampere, or a processor "
            f"with AVX-512 BF16 for images of more than {ONE_PIXEL} pixels), but this {device.type} does not "
            f"at {image_size} pixels; use --precision fp32 or auto."
        )
    if precision == "auto":
        return "bf16" if able else "fp32"
    return precision


def mixed(precision: str, device: torch.device) -> torch.autocast:
    """Within, convolutions and matrix products are computed in that precision: `fp32` or `bf16`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
