"""Random resized crops and flips, drawn for each sample from (seed, epoch, sample) alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from finetune.config.experiment import Recipe
from finetune.data.device import DeviceStore
from finetune.data.store import Store
from finetune.data.stream import Pixels, Stream, ahead

Index = npt.NDArray[np.int64]

ATTEMPTS = 10
ASPECT = (3 / 4, 4 / 3)
"""Tries and range of width over height, as in torchvision's RandomResizedCrop."""


@dataclass(frozen=True)
class Plan:
    """What one epoch does to each training image.

    Args:
        order: [n] sample indices in the order of training.
        boxes: [n x 4] float32 crop of each sample: left, top, right, bottom, in pixels of the stored image.
        flips: [n] whether each sample is mirrored.
    """

    order: Index
    boxes: npt.NDArray[np.float32]
    flips: npt.NDArray[np.bool_]

    def digest(self, before: str) -> str:
        """SHA-256 of this plan chained to the digest of the epochs before it, so that it can be resumed."""
        state = hashlib.sha256(before.encode())
        for part in (self.order, self.boxes, self.flips):
            state.update(np.ascontiguousarray(part).tobytes())
        return state.hexdigest()


@dataclass(frozen=True)
class Views:
    """A few augmented views of each training image, used in turn, the same for all variants and seeds.

    Args:
        count: how many; as many as epochs leave the schedule of the seed below as it is.
        seed: they are drawn as the first `count` epochs of this seed.
    """

    count: int
    seed: int

    def of_epoch(self, epoch: int) -> int:
        """The view, from 1, that an epoch, from 1, sees."""
        return (epoch - 1) % self.count + 1


def plan_epoch(
    seed: int, epoch: int, sizes: npt.NDArray[np.int64], recipe: Recipe, views: Views | None = None
) -> Plan:
    """Draw an epoch's order, crops and flips.

    Each sample reads its own fixed stretch of one counter-based random stream (Philox; Salmon et al. 2011),
    so neither batch size nor the number of threads changes what it gets.

    Args:
        seed: of the run.
        epoch: from 1.
        sizes: [n x 2] height and width of the stored training images.
        recipe: smallest crop area and flip probability.
        views: take crops and flips from these; None draws fresh ones for each epoch and seed.
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
    """The first of `ATTEMPTS` crops that fits its image, else the largest central one."""
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
    """Cut a box out of an image, resize it with antialiasing, mirror it if asked.

    Args:
        image: [height x width x 3] uint8.
        box: [4] left, top, right, bottom in pixels; fractions allowed.
        flip: whether to mirror left to right.
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


def batches(
    store: Store | Stream | DeviceStore,
    plan: Plan,
    parts: Sequence[Index],
    image_size: int,
    pool: ThreadPoolExecutor,
    ahead_by: int,
) -> Iterator[tuple[Index, torch.Tensor]]:
    """Augmented training images, made by threads ahead of their use.

    Args:
        store: the training images; those on a GPU are cropped there.
        plan: what the epoch does to each.
        parts: sample indices [b] of each batch.
        image_size: height and width of the network's input.
        pool: threads.
        ahead_by: batches prepared while the network works on an earlier one.

    Yields:
        Each part with its images [b x image_size x image_size x 3] uint8.
    """
    if isinstance(store, DeviceStore):
        for index in parts:
            yield index, store.crops(index, plan.boxes[index], plan.flips[index], image_size)
        return

    def augmented(index: Index) -> tuple[Index, torch.Tensor]:
        pixels = [crop(store.image(i), plan.boxes[i], bool(plan.flips[i]), image_size) for i in index]
        return index, torch.from_numpy(np.stack(pixels))

    yield from ahead(pool, augmented, parts, ahead_by)
