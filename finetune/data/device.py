"""Training images kept on the GPU and cropped there, by batched matrix products with a filter's weights.

Nothing here waits for the GPU: while it computes a step, the processor prepares the next.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from finetune.data.store import Store


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on a device, in the order of what was asked of it before, which is not waited for.

    A plain copy waits for all of it, and so does one of memory that the kernel might move.
    """
    if device.type == "cuda" and not tensor.is_cuda:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class DeviceStore:
    """Decoded training images in a device's memory.

    Args:
        store: the images.
        device: where they go.
    """

    def __init__(self, store: Store, device: torch.device) -> None:
        self.pixels = torch.from_numpy(store.pixels).view(-1, 3).to(device)
        self.sizes = store.sizes
        self.first_pixels = store.offsets // 3

    def __len__(self) -> int:
        return len(self.sizes)

    def crops(
        self,
        index: npt.NDArray[np.int64],
        boxes: npt.NDArray[np.float32],
        flips: npt.NDArray[np.bool_],
        image_size: int,
    ) -> torch.Tensor:
        """Cut a box out of each image, resize it with antialiasing, mirror it if asked.

        It differs from `augment.crop` by rounding alone: Pillow rounds between its two passes.

        Args:
            index: [b] which images.
            boxes: [b x 4] left, top, right, bottom in pixels.
            flips: [b] whether to mirror left to right.
            image_size: height and width of the result.

        Returns:
            [b x image_size x image_size x 3] uint8.
        """
        sizes, corners = self.sizes[index], boxes.astype(np.float64)
        rows, top, bottom = _taps(corners[:, 1], corners[:, 3], sizes[:, 0], image_size)
        columns, left, right = _taps(corners[:, 0], corners[:, 2], sizes[:, 1], image_size)
        columns[flips] = columns[flips, ::-1]
        # Which pixels the filters reach; behind the last one it stands again, with weight zero.
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
    """Weights that resample [low, high) of b lines of pixels to n pixels, those of Pillow's BILINEAR.

    Returns:
        Weights [b x n x most pixels reached], the first pixel reached [b], the one behind the last [b].
    """
    scale = (high - low) / n
    support = np.maximum(scale, 1.0)
    centre = low[:, None] + (np.arange(n) + 0.5) * scale[:, None]
    first = np.maximum(np.floor(centre[:, 0] - support + 0.5), 0).astype(np.int64)
    last = np.minimum(np.floor(centre[:, -1] + support + 0.5), length).astype(np.int64)
    pixel = first[:, None] + np.arange(int((last - first).max()))
    distance = np.abs(pixel[:, None, :] + 0.5 - centre[:, :, None]) / support[:, None, None]
    weights = np.maximum(1.0 - distance, 0.0) * (pixel < last[:, None])[:, None, :]
    return weights / weights.sum(axis=2, keepdims=True), first, last
