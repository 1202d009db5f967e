"""Random resized crops and flips, each a function of (seed, epoch, sample) only."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from finetune.config.experiment import Recipe

Index = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]

ATTEMPTS = 10
ASPECT = (3 / 4, 4 / 3)
"""Tries and range of width over height, as in torchvision's RandomResizedCrop."""


@dataclass(frozen=True)
class Plan:
    """The order of an epoch, and the crop and flip of each training image.

    Args:
        order: [n] sample indices in the order in which they are trained on.
        boxes: [n x 4] float32 crop of each sample: left, top, right, bottom, in pixels of the stored image.
        flips: [n] whether each sample is mirrored.
    """

    order: Index
    boxes: npt.NDArray[np.float32]
    flips: npt.NDArray[np.bool_]

    def digest(self, before: str) -> str:
        """SHA-256 of this plan, chained to the digest of the epochs before it so that it can be resumed."""
        state = hashlib.sha256(before.encode())
        for part in (self.order, self.boxes, self.flips):
            state.update(np.ascontiguousarray(part).tobytes())
        return state.hexdigest()


@dataclass(frozen=True)
class Views:
    """A fixed number of augmented views of each training image, shared by all variants and seeds.

    Args:
        count: of views; epoch `count` + 1 sees the first one again.
        seed: view i is what epoch i of this seed would see without `Views`.
    """

    count: int
    seed: int

    def of_epoch(self, epoch: int) -> int:
        """The number of the view, from 1, that an epoch, from 1, sees."""
        return (epoch - 1) % self.count + 1


def plan_epoch(
    seed: int, epoch: int, sizes: npt.NDArray[np.int64], recipe: Recipe, views: Views | None = None
) -> Plan:
    """Draw an epoch's order, crops and flips.

    Each sample reads its own fixed stretch of one counter-based random stream (Philox; Salmon et al. 2011),
    so its crop and flip depend on neither the batch size nor the number of threads.

    Args:
        seed: of the run.
        epoch: from 1.
        sizes: [n x 2] height and width of the stored training images.
        recipe: smallest crop area and flip probability.
        views: to take crops and flips from; None draws fresh ones for each epoch and seed.
    """
    n = len(sizes)
    draws = _draws(seed, epoch, n)
    order = np.argsort(draws[:, 0], kind="stable")
    if views is not None:
        draws = _draws(views.seed, views.of_epoch(epoch), n)
    return Plan(
        order=order,
        boxes=_boxes(draws[:, 2:].reshape(n, ATTEMPTS, 4), sizes, recipe.crop_area_min),
        flips=draws[:, 1] < recipe.flip_probability,
    )


def _draws(seed: int, epoch: int, n: int) -> npt.NDArray[np.float64]:
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).random((n, 2 + 4 * ATTEMPTS))


def _boxes(
    draws: npt.NDArray[np.float64], sizes: npt.NDArray[np.int64], area_min: float
) -> npt.NDArray[np.float32]:
    """The first of `ATTEMPTS` crops that fits its image, else its largest central crop."""
    height, width = sizes[:, :1].astype(np.float64), sizes[:, 1:].astype(np.float64)
    area = height * width * (area_min + (1 - area_min) * draws[:, :, 0])
    log_low, log_high = math.log(ASPECT[0]), math.log(ASPECT[1])
    aspect = np.exp(log_low + (log_high - log_low) * draws[:, :, 1])
    crop_width, crop_height = np.sqrt(area * aspect), np.sqrt(area / aspect)
    fits = (crop_width <= width) & (crop_height <= height)
    row = np.arange(len(sizes))
    first = np.argmax(fits, axis=1)
    w, h = crop_width[row, first], crop_height[row, first]
    left = (width[:, 0] - w) * draws[row, first, 2]
    top = (height[:, 0] - h) * draws[row, first, 3]
    boxes = np.stack([left, top, left + w, top + h], axis=1)

    central_w = np.minimum(width[:, 0], height[:, 0] * ASPECT[1])
    central_h = np.minimum(height[:, 0], width[:, 0] / ASPECT[0])
    central_left, central_top = (width[:, 0] - central_w) / 2, (height[:, 0] - central_h) / 2
    central = np.stack([central_left, central_top, central_left + central_w, central_top + central_h], axis=1)
    boxes = np.where(np.any(fits, axis=1).reshape(-1, 1), boxes, central)
    limits = np.concatenate([width, height, width, height], axis=1)
    clipped: npt.NDArray[np.float32] = np.clip(boxes, 0, limits).astype(np.float32)
    return clipped


def crop(image: Pixels, box: npt.NDArray[np.float32], flip: bool, image_size: int) -> Pixels:
    """Crop an image, resize it with antialiasing and optionally mirror it.

    Args:
        image: [height x width x 3] uint8.
        box: [4] left, top, right, bottom in pixels; may be fractional.
        flip: mirror left to right.
        image_size: height and width of the result.

    Returns:
        [image_size x image_size x 3] uint8.
    """
    left, top, right, bottom = (float(v) for v in box)
    resized = Image.fromarray(image).resize(
        (image_size, image_size), Image.Resampling.BILINEAR, box=(left, top, right, bottom)
    )
    pixels = np.asarray(resized)
    return pixels[:, ::-1] if flip else pixels
