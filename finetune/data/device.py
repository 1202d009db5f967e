"""Images in GPU memory, cropped there by batched matrix products with the weights of a resampling filter.

Nothing here synchronizes with the GPU: while it computes one step, the CPU prepares the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from finetune.data.augment import Index, Plan
from finetune.data.sources import WHOLE
from finetune.data.store import StoredImages, equally_sized


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on a device, copied in stream order without synchronizing.

    A plain copy synchronizes, and so does a copy from memory that is not pinned. MPS copies plainly: there,
    a copy that does not wait may read memory that has been given back.
    """
    if device.type == "mps":
        return tensor.to(device)
    if device.type == "cuda" and not tensor.is_cuda:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class DeviceImages:
    """Decoded images in a device's memory.

    Args:
        images: to copy there.
        device: such as a GPU.
    """

    def __init__(self, images: StoredImages, device: torch.device) -> None:
        self.pixels = torch.from_numpy(images.pixels).view(-1, 3).to(device)
        self.sizes = images.sizes
        self.first_pixels = images.offsets // 3

    def __len__(self) -> int:
        return len(self.sizes)

    def augmented(
        self,
        plan: Plan,
        batches: Sequence[Index],
        image_size: int,
        workers: int,  # noqa: ARG002 - the device does the work
    ) -> Iterator[tuple[Index, torch.Tensor]]:
        """Augmented training images; see `ImageSource`."""
        for index in batches:
            yield index, self.crops(index, plan.boxes[index], plan.flips[index], image_size)

    def batches(self, batch_size: int, part: slice = WHOLE) -> Iterator[torch.Tensor]:
        """Images in order, as views; see `ImageSource`."""
        return equally_sized(self.pixels, self.sizes, batch_size, part)

    def crops(
        self,
        index: npt.NDArray[np.int64],
        boxes: npt.NDArray[np.float32],
        flips: npt.NDArray[np.bool_],
        image_size: int,
    ) -> torch.Tensor:
        """Crop images, resize them with antialiasing and mirror some of them.

        The result differs from `augment.crop` by rounding only: Pillow rounds between its two passes.

        Args:
            index: [b] indices of the images.
            boxes: [b x 4] left, top, right, bottom in pixels.
            flips: [b] whether to mirror the image left to right.
            image_size: height and width of the result.

        Returns:
            [b x image_size x image_size x 3] uint8.
        """
        sizes, corners = self.sizes[index], boxes.astype(np.float64)
        rows, top, bottom = _taps(corners[:, 1], corners[:, 3], sizes[:, 0], image_size)
        columns, left, right = _taps(corners[:, 0], corners[:, 2], sizes[:, 1], image_size)
        columns[flips] = columns[flips, ::-1]
        # The pixels that the filters reach; rows of fewer pixels repeat the last one with weight zero.
        lines = np.minimum(top[:, None] + np.arange(rows.shape[2]), bottom[:, None] - 1)
        across = np.minimum(left[:, None] + np.arange(columns.shape[2]), right[:, None] - 1)
        lines = self.first_pixels[index][:, None] + lines * sizes[:, 1:]
        device = self.pixels.device
        vertical, horizontal, line, column = (
            to_device(torch.from_numpy(a), device)
            for a in (rows.astype(np.float32), columns.astype(np.float32), lines, across)
        )
        frame = self.pixels[line[:, :, None] + column[:, None, :]]
        n, _, width, _ = frame.shape
        narrow = (vertical @ frame.flatten(2).float()).view(n, image_size, width, 3)
        narrow = narrow.transpose(1, 2).reshape(n, width, image_size * 3)
        resized: torch.Tensor = (horizontal @ narrow).view(n, image_size, image_size, 3).transpose(1, 2)
        return resized.round_().clamp_(0, 255).to(torch.uint8)


def _taps(
    low: npt.NDArray[np.float64], high: npt.NDArray[np.float64], length: npt.NDArray[np.int64], n: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Weights that resample [low, high) of b lines of pixels to n pixels, as Pillow's BILINEAR filter does.

    Returns:
        Weights [b x n x most pixels reached], the first pixel reached [b], one past the last pixel reached
        [b].
    """
    scale = (high - low) / n
    support = np.maximum(scale, 1.0)
    center = low[:, None] + (np.arange(n) + 0.5) * scale[:, None]
    first = np.maximum(np.floor(center[:, 0] - support + 0.5), 0).astype(np.int64)
    last = np.minimum(np.floor(center[:, -1] + support + 0.5), length).astype(np.int64)
    pixel = first[:, None] + np.arange(int((last - first).max()))
    distance = np.abs(pixel[:, None, :] + 0.5 - center[:, :, None]) / support[:, None, None]
    weights = np.maximum(1.0 - distance, 0.0) * (pixel < last[:, None])[:, None, :]
    return weights / weights.sum(axis=2, keepdims=True), first, last
