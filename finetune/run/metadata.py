"""What a weights file says about itself: classes, preprocessing and origin, in safetensors' metadata."""

from __future__ import annotations

import json

from finetune.data.stream import RESIZE_RATIO
from finetune.training.evaluate import MEAN, STD

ARCHITECTURE = "resnet18"


def model_metadata(
    classes: tuple[str, ...], image_size: int, *, schema_version: str, variant: str, seed: int, epoch: int
) -> dict[str, str]:
    """What a program needs to use the weights, and where they come from.

    Args:
        classes: names, by index of the logit.
        image_size: height and width of the input, pixels.
        schema_version: of the results file that names the weights.
        variant: of the training run that they come from.
        seed: of that run.
        epoch: its chosen one.

    Returns:
        Text by name; lists and objects are JSON. `format` is what safetensors' readers look for.
    """
    resize = {
        "short_side": round(image_size * RESIZE_RATIO),
        "interpolation": "bilinear",
        "antialias": True,
        "crop": "center",
    }
    return {
        "format": "pt",
        "schema_version": schema_version,
        "architecture": ARCHITECTURE,
        "classes": json.dumps(classes),
        "image_size": str(image_size),
        "resize": json.dumps(resize),
        "mean": json.dumps(MEAN),
        "std": json.dumps(STD),
        "variant": variant,
        "seed": str(seed),
        "epoch": str(epoch),
    }


def with_metadata(content: bytes, metadata: dict[str, str]) -> bytes:
    """A safetensors file with other metadata.

    The library writes entries of metadata in random order; here equal input gives equal bytes.

    Args:
        content: of a valid file.
        metadata: takes the place of what is there.
    """
    start = 8 + int.from_bytes(content[:8], "little")  # the format: github.com/huggingface/safetensors
    header, tensors = json.loads(content[8:start]), content[start:]
    header["__metadata__"] = dict(sorted(metadata.items()))
    described = json.dumps(dict(sorted(header.items())), separators=(",", ":")).encode()
    described += b" " * (-len(described) % 8)  # tensors begin at a multiple of 8 bytes
    return len(described).to_bytes(8, "little") + described + tensors
