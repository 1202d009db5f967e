"""Images in GPU memory, cropped there by batched matrix products with the weights of a resampling filter.

Nothing here synchronizes with the GPU: while it computes one step, the CPU prepares the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from finetune.data.augment import Index, Plan
from finetune.data.sources import WHOLE
from finetune.data.store import StoredImages, equally_sized
from finetune.system.host import available_memory_bytes


def free_memory_bytes(device: torch.device) -> int:
    """Memory that can still be allocated where a device computes: the GPU's with CUDA, else the machine's."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    return available_memory_bytes()


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
        rows = _Reach.of(corners[:, 1], corners[:, 3], sizes[:, 0], image_size)
        columns = _Reach.of(corners[:, 0], corners[:, 2], sizes[:, 1], image_size)
        begins = self.first_pixels[index] + rows.first * sizes[:, 1] + columns.first
        facts = np.stack([begins, sizes[:, 1], flips, *rows.facts, *columns.facts]).astype(np.float64)
        # One copy of [9 x b]; float64 holds every whole number among them exactly.
        on_device = to_device(torch.from_numpy(facts), self.pixels.device)[:, :, None]
        start, stride = on_device[:2].long()
        flip, *found = on_device[2:].float()
        # A caller may be in autocast, and gray levels need more than bfloat16's eight bits.
        with torch.autocast(self.pixels.device.type, enabled=False):
            vertical, line = _taps(found[:3], rows.most, image_size, torch.zeros_like(flip))
            horizontal, column = _taps(found[3:], columns.most, image_size, flip)
            lines = start + line.long() * stride
            frame = self.pixels[lines[:, :, None] + column.long()[:, None, :]]
            n, _, width, _ = frame.shape
            narrow = (vertical @ frame.flatten(2).float()).view(n, image_size, width, 3)
            narrow = narrow.transpose(1, 2).reshape(n, width, image_size * 3)
            resized: torch.Tensor = (horizontal @ narrow).view(n, image_size, image_size, 3).transpose(1, 2)
            return resized.round_().clamp_(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class _Reach:
    """The pixels that Pillow's BILINEAR filter reaches when it resamples a stretch of each of b lines.

    Args:
        first: index of the first one [b].
        facts: of each line [b]: the center of the first new pixel, counted from `first`; the distance
            between the centers of new pixels; how many pixels are reached. All in pixels of the line.
        most: the largest of these numbers.
    """

    first: npt.NDArray[np.int64]
    facts: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]
    most: int

    @classmethod
    def of(
        cls,
        low: npt.NDArray[np.float64],
        high: npt.NDArray[np.float64],
        length: npt.NDArray[np.int64],
        n: int,
    ) -> _Reach:
        """What resampling [low, high) of lines of `length` pixels to n pixels reaches."""
        scale = (high - low) / n
        support, center = np.maximum(scale, 1.0), low + scale / 2
        first = np.maximum(np.floor(center - support + 0.5), 0).astype(np.int64)
        last = np.minimum(np.floor(high - scale / 2 + support + 0.5), length).astype(np.int64)
        return cls(first, (center - first, scale, last - first), int((last - first).max()))


def _taps(
    facts: Sequence[torch.Tensor], most: int, n: int, flip: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights that resample lines of pixels to n pixels, and the pixels that they belong to.

    On a CPU they would take longer than a GPU's training step.

    Args:
        facts: of each line [b x 1]; see `_Reach`.
        most: pixels reached in any line.
        n: pixels wanted.
        flip: [b x 1] 1 to mirror a line, else 0.

    Returns:
        Weights [b x n x most]; pixels counted from the first that is reached [b x most]; the
        last one again, with weight zero, where fewer are reached.
    """
    center, scale, count = facts
    new, pixel = (torch.arange(k, dtype=torch.float32, device=flip.device) for k in (n, most))
    centers = center + (new + flip * (n - 1 - 2 * new)) * scale
    distance = (pixel + 0.5 - centers[:, :, None]).abs() / scale.clamp(min=1.0)[:, :, None]
    weights = (1 - distance).clamp(min=0.0) * (pixel < count)[:, None, :]
    return weights / weights.sum(dim=2, keepdim=True), torch.minimum(pixel, count - 1)
