"""Every image decoded once into uint8 arrays.

Training images keep up to twice the network's input size, so that most random crops are taken from real
pixels; validation and test images are kept as the network sees them, resized and cropped from the original.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from finetune import images
from finetune.datasets import Sample
from finetune.errors import BadImagesError, DataError
from finetune.host import available_memory_bytes
from finetune.images import UNREADABLE, reason

Result = TypeVar("Result")
Pixels = npt.NDArray[np.uint8]

RESIZE_RATIO = 256 / 224
"""Evaluation resizes the short side to this multiple of the input size (Krizhevsky et al. 2012)."""

TRAIN_RATIO = 2.0
"""Stored short side of a training image, at most, as a multiple of the input size."""

MOST_PIXELS = 1 << 26
"""An image that would have more when resized for evaluation is cut to its middle first."""

LONGEST = 8
"""Long over short side of that middle: far more than the centre crop sees."""


@dataclass(frozen=True)
class Store:
    """Decoded images behind each other in one flat array, in memory or in a temporary file.

    Args:
        pixels: [sum of height x width x 3] uint8.
        sizes: [n x 2] height and width of each image.
        offsets: [n] where each image begins in `pixels`.
    """

    pixels: Pixels
    sizes: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]

    @property
    def in_memory(self) -> bool:
        """Whether the pixels lie in memory rather than in a temporary file."""
        return not isinstance(self.pixels, np.memmap)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Pixels:
        """Image `index` [height x width x 3], a view."""
        height, width = self.sizes[index]
        start = self.offsets[index]
        return self.pixels[start : start + height * width * 3].reshape(height, width, 3)


def train_size(height: int, width: int, image_size: int) -> tuple[int, int]:
    """Stored height and width of a training image: short side at most `TRAIN_RATIO * image_size`."""
    scale = min(1.0, TRAIN_RATIO * image_size / min(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def decode_training(
    samples: Sequence[Sample], image_size: int, workers: int, tick: Callable[[int], None]
) -> Store:
    """Decode training images at up to twice the input size.

    Raises:
        BadImagesError: images that cannot be decoded, each with its reason.
    """

    def resized(image: Image.Image) -> Image.Image:
        height, width = train_size(image.height, image.width, image_size)
        if (image.height, image.width) == (height, width):
            return image
        return image.resize((width, height), Image.Resampling.BILINEAR)

    bad: dict[str, str] = {}
    sizes = _each(lambda index: images.image_size(samples[index]), samples, workers, bad)
    shapes = [train_size(*(size or (1, 1)), image_size) for size in sizes]  # a bad one fails again below
    return _decode(samples, shapes, resized, workers, tick)


def decode_evaluation(
    samples: Sequence[Sample], image_size: int, workers: int, tick: Callable[[int], None]
) -> Store:
    """Decode images as evaluation sees them: short side to 256/224 of the input size, centre crop.

    Raises:
        BadImagesError: images that cannot be decoded, each with its reason.
    """

    def cropped(image: Image.Image) -> Image.Image:
        short = round(image_size * RESIZE_RATIO)
        image = _central(image, short)
        least = min(image.height, image.width)
        # Multiplied before divided, as torchvision does: the other order loses a pixel to rounding at times.
        width, height = int(short * image.width / least), int(short * image.height / least)
        left, top = round((width - image_size) / 2), round((height - image_size) / 2)
        return image.resize((width, height), Image.Resampling.BILINEAR).crop(
            (left, top, left + image_size, top + image_size)
        )

    return _decode(samples, [(image_size, image_size)] * len(samples), cropped, workers, tick)


def _central(image: Image.Image, short: int) -> Image.Image:
    """The middle of an image so long that the whole, resized to short side `short`, could fill memory."""
    shape = np.array(image.size)
    if short**2 * shape.max() <= MOST_PIXELS * shape.min():
        return image
    width, height = np.minimum(shape, LONGEST * shape.min()).tolist()
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _decode(
    samples: Sequence[Sample],
    shapes: list[tuple[int, int]],
    transform: Callable[[Image.Image], Image.Image],
    workers: int,
    tick: Callable[[int], None],
) -> Store:
    sizes = np.array(shapes, dtype=np.int64).reshape(-1, 2)
    lengths = sizes[:, 0] * sizes[:, 1] * 3
    offsets = np.cumsum(lengths) - lengths
    store = Store(_allocate(int(lengths.sum())), sizes, offsets)

    bad: dict[str, str] = {}

    def decode(index: int) -> None:
        store[index][:] = np.asarray(transform(images.open_image(samples[index])))
        tick(1)

    _each(decode, samples, workers, bad)
    if bad:
        raise BadImagesError(bad)
    return store


def _allocate(n_bytes: int) -> Pixels:
    """Memory where at least as much again stays free, else a temporary file that goes with the process."""
    if n_bytes < available_memory_bytes() // 2:
        return np.empty(n_bytes, dtype=np.uint8)
    with tempfile.TemporaryFile(prefix="finetune-store-") as file:  # the mapping holds it open
        try:
            if hasattr(os, "posix_fallocate"):
                # Reserved now, with an error to catch: a full disk kills a process that writes to a mapping.
                os.posix_fallocate(file.fileno(), 0, n_bytes)
        except OSError as error:
            raise DataError(
                f"The decoded images need {n_bytes / 1e9:.1f} GB, more than half of the free memory, and "
                f"the folder for temporary files cannot hold them ({error.strerror}); make room, set TMPDIR "
                "to another folder, or use fewer images with --subset."
            ) from error
        return np.memmap(file, dtype=np.uint8, mode="w+", shape=(n_bytes,))


def _each(
    work: Callable[[int], Result], samples: Sequence[Sample], workers: int, bad: dict[str, str]
) -> list[Result | None]:
    """Do the work for every sample's number in threads (Pillow releases the interpreter's lock).

    What cannot be read yields None and goes into `bad`, so that all of it can be told at once.
    """

    def attempt(index: int) -> Result | None:
        try:
            return work(index)
        except UNREADABLE as error:
            bad[samples[index].id] = reason(error)
            return None

    with warnings.catch_warnings():
        # Pillow's remarks on odd metadata; what cannot be decoded still raises.
        warnings.simplefilter("ignore")
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(attempt, range(len(samples))))
