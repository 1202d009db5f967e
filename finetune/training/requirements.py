"""What a recipe requires of the images and of the machine, found out before training."""

from __future__ import annotations

import torch

from finetune.config.experiment import Recipe, Variant
from finetune.data.device import free_memory_bytes
from finetune.errors import ConfigError, OutOfMemory, sized
from finetune.network.resnet18 import ONE_PIXEL_AT_THE_END, resnet18

EVALUATED_AT_ONCE = 256
"""On a GPU, a batch size that evaluation does not exceed for the sake of speed."""


def require_batch_statistics(variant: Variant, n_train: int, recipe: Recipe, processes: int = 1) -> None:
    """Make sure that no step leaves batch normalization with a single value per channel.

    Up to 32 pixels the last layers see one value per channel and image, and a variance needs a second one.

    Args:
        variant: whose trained layers gather statistics.
        n_train: training images.
        recipe: batch size and image size.
        processes: that divide a batch, each with its own batch statistics.

    Raises:
        ConfigError: a step would have a single image and no statistics to normalize it by, or fewer than two
            images for each process.
    """
    smallest = min(recipe.batch_size, n_train % recipe.batch_size or recipe.batch_size)
    if processes > 1 and smallest < 2 * processes:
        raise ConfigError(
            f"Each of {processes} processes needs two images of every batch, but {n_train} training images "
            f"in batches of {recipe.batch_size} leave one of {smallest}; use another --batch-size or fewer "
            "processes."
        )
    learns = variant.adapts or any(group not in ("conv1", "fc") for group in variant.groups)
    single = recipe.batch_size == 1 or n_train % recipe.batch_size == 1
    if learns and single and recipe.image_size <= ONE_PIXEL_AT_THE_END:
        raise ConfigError(
            f"Batch normalization needs two images in each step, but {n_train} training images in batches "
            f"of {recipe.batch_size} leave a step with a single image at {recipe.image_size} pixels; use "
            f"another --batch-size, or an --image-size above {ONE_PIXEL_AT_THE_END}."
        )


def require_memory(
    variant: Variant, recipe: Recipe, precision: str, device: torch.device, processes: int = 1
) -> None:
    """Make sure that a training step can fit into memory, before images are decoded for it.

    Args:
        variant: fewer trained layers need less memory.
        recipe: batch size and image size.
        precision: `fp32` or `bf16`.
        device: whose free memory counts.
        processes: that share a batch and, on a CPU, the memory.

    Raises:
        OutOfMemory: the tensors saved for the backward pass alone need more than the free memory.
    """
    per_image = saved_bytes(variant, recipe.image_size) // (2 if precision == "bf16" else 1)
    free = free_memory_bytes(device)
    in_memory = -(-recipe.batch_size // processes) if device.type == "cuda" else recipe.batch_size
    if per_image * in_memory > free:
        fitting = free // per_image * (recipe.batch_size // in_memory)
        advice = f"--batch-size {fitting} or less, or " if fitting > 0 else ""
        raise OutOfMemory(
            f"Training {variant.name} on batches of {recipe.batch_size} images of {recipe.image_size} pixels "
            f"needs more than {sized(per_image * in_memory)}, but {sized(free)} of memory is "
            f"free; use {advice}a smaller --image-size."
        )


def evaluation_batch_size(recipe: Recipe, device: torch.device) -> int:
    """Images that are evaluated at a time: the recipe's batch size, and on a GPU up to four times as many.

    Batches of 64 leave a large GPU partly idle. Evaluation keeps nothing for a backward pass: four times the
    images need about the memory of one training step of A or B.
    """
    if device.type != "cuda":
        return recipe.batch_size
    return max(recipe.batch_size, min(4 * recipe.batch_size, EVALUATED_AT_ONCE))


def require_memory_to_evaluate(recipe: Recipe, n_images: int, precision: str, device: torch.device) -> None:
    """Make sure that a batch can be evaluated, whatever sizes a stranger's results record.

    Args:
        recipe: batch size and image size.
        n_images: in the largest split.
        precision: `fp32` or `bf16`.
        device: whose free memory counts.

    Raises:
        OutOfMemory: a batch and its outputs of the first convolution need more than the free memory.
    """
    values = 3 + 64 / 4  # per pixel: the normalized image, and 64 channels of half its height and width
    n_bytes = min(evaluation_batch_size(recipe, device), n_images) * recipe.image_size**2 * (3 + values * 4)
    n_bytes /= 2 if precision == "bf16" else 1
    free = free_memory_bytes(device)
    if n_bytes > free:
        raise OutOfMemory(
            f"Batches of {recipe.batch_size:,} images of {recipe.image_size:,} pixels, as recorded, "
            f"need more than {sized(n_bytes)}, but {sized(free)} of memory is free; "
            "evaluate on a machine with more."
        )


def saved_bytes(variant: Variant, image_size: int) -> int:
    """Bytes that a training step in fp32 saves for the backward pass, per image; allocates nothing."""
    with torch.device("meta"):
        network = resnet18(2, variant.groups, variant.adapts)
        images = torch.zeros(2, 3, image_size, image_size)  # batch normalization needs two
    parameters = {id(p) for p in network.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in parameters:
            saved[tensor.untyped_storage()._cdata] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = network(images)
    assert logits.requires_grad  # noqa: S101 - every variant trains something
    return sum(saved.values()) // 2
