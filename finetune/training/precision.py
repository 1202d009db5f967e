"""The precision of convolutions and matrix products: fp32 or bf16."""

from __future__ import annotations

import torch

from finetune.errors import ConfigError
from finetune.network.resnet18 import ONE_PIXEL_BEFORE_LAYER4


def choose_precision(precision: str, device: torch.device, image_size: int) -> str:
    """`fp32` or `bf16`, as asked for; `auto` chooses the faster one.

    A device with bf16 instructions takes about half of fp32's time; a CPU without them takes ten times as
    long, so bf16 is refused there. It is also refused on a CPU for images of up to 16 pixels: a strided
    convolution then sees a single pixel, and oneDNN 3.13 leaves part of its bf16 weight gradient
    uninitialized.

    From then on fp32 means fp32 on a GPU too: unless told otherwise, cuDNN computes float32 convolutions in
    TF32, with 10 bits of mantissa instead of 23.

    Raises:
        ConfigError: `bf16` on a device that has no instructions for it.
    """
    # Not by `cudnn.conv.fp32_precision`: torch.export, and with it the ONNX exporter, reads this flag, which
    # is an error once the other has been set.
    torch.backends.cudnn.allow_tf32 = False
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = torch.cpu._is_avx512_bf16_supported() and image_size > ONE_PIXEL_BEFORE_LAYER4
    if precision == "bf16" and not able:
        raise ConfigError(
            "--precision bf16 needs a device with bf16 instructions (an NVIDIA GPU since Ampere, or a CPU "
            f"with AVX-512 BF16 for images of more than {ONE_PIXEL_BEFORE_LAYER4} pixels), but this "
            f"{'GPU' if device.type == 'cuda' else 'CPU'} has none for images of "
            f"{image_size} pixels; use --precision fp32 or auto."
        )
    if precision == "auto":
        return "bf16" if able else "fp32"
    return precision


def mixed(precision: str, device: torch.device) -> torch.autocast:
    """A context in which convolutions and matrix products are computed in `fp32` or `bf16`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
