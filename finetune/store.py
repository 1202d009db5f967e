"""Every image decoded once into uint8 arrays.

Training images keep up to twice the network's input size, so that most random crops are taken from real
pixels; validation and test images are kept as the network sees them, resized and cropped from the original.
"""

from __future__ import annotations

import struct
import tempfile
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from finetune.datasets import Sample
from finetune.errors import DataError, listed
from finetune.host import available_memory_bytes

Task = TypeVar("Task")
Result = TypeVar("Result")
Pixels = npt.NDArray[np.uint8]

RESIZE_RATIO = 256 / 224
"""Evaluation resizes the short side to this multiple of the input size (Krizhevsky et al. 2012)."""

TRAIN_RATIO = 2.0
"""Stored short side of a training image, at most, as a multiple of the input size."""

UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)
"""What Pillow's decoders raise on damaged files."""

EXIF_ORIENTATION = 0x0112
SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""


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
        DataError: images that cannot be decoded, listed.
    """

    def resized(image: Image.Image) -> Image.Image:
        height, width = train_size(image.height, image.width, image_size)
        if (image.height, image.width) == (height, width):
            return image
        return image.resize((width, height), Image.Resampling.BILINEAR)

    sizes = _each(_size, samples, workers, lambda sample: sample.id)
    shapes = [train_size(h, w, image_size) for h, w in sizes]
    return _decode(samples, shapes, resized, workers, tick)


def decode_evaluation(
    samples: Sequence[Sample], image_size: int, workers: int, tick: Callable[[int], None]
) -> Store:
    """Decode images as evaluation sees them: short side to 256/224 of the input size, centre crop.

    Raises:
        DataError: images that cannot be decoded, listed.
    """

    def cropped(image: Image.Image) -> Image.Image:
        short = round(image_size * RESIZE_RATIO)
        scale = short / min(image.height, image.width)
        width, height = max(short, int(image.width * scale)), max(short, int(image.height * scale))
        left, top = round((width - image_size) / 2), round((height - image_size) / 2)
        return image.resize((width, height), Image.Resampling.BILINEAR).crop(
            (left, top, left + image_size, top + image_size)
        )

    return _decode(samples, [(image_size, image_size)] * len(samples), cropped, workers, tick)


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

    def decode(task: tuple[int, Sample]) -> bool:
        index, sample = task
        store[index][:] = np.asarray(transform(_open(sample)))
        tick(1)
        return True

    _each(decode, list(enumerate(samples)), workers, lambda task: task[1].id)
    return store


def _allocate(n_bytes: int) -> Pixels:
    """Memory where at least as much again stays free, else a temporary file that goes with the process."""
    if n_bytes < available_memory_bytes() // 2:
        return np.empty(n_bytes, dtype=np.uint8)
    file = tempfile.TemporaryFile(prefix="finetune-store-")  # noqa: SIM115 - it lives as long as the array
    return np.memmap(file, dtype=np.uint8, mode="w+", shape=(n_bytes,))


def _open(sample: Sample) -> Image.Image:
    """Decode one image, upright, as RGB."""
    if not isinstance(sample.content, Path):
        return Image.fromarray(sample.content).convert("RGB")
    with Image.open(sample.content) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def _size(sample: Sample) -> tuple[int, int]:
    """Height and width from the header alone, orientation applied."""
    if not isinstance(sample.content, Path):
        height, width = sample.content.shape
        return height, width
    with Image.open(sample.content) as image:
        sideways = image.getexif().get(EXIF_ORIENTATION) in SIDEWAYS
        return (image.width, image.height) if sideways else (image.height, image.width)


def _each(
    work: Callable[[Task], Result], tasks: Sequence[Task], workers: int, name: Callable[[Task], str]
) -> list[Result]:
    """Do the work in threads (Pillow releases the interpreter's lock); report all failures at once."""
    failures: list[str] = []

    def attempt(task: Task) -> Result | None:
        try:
            return work(task)
        except UNREADABLE as error:
            failures.append(f"{name(task)} ({_reason(error)})")
            return None

    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # Pillow's remarks on odd metadata; what cannot be decoded still raises
        with ThreadPoolExecutor(workers) as pool:
            results = list(pool.map(attempt, tasks))
    if failures:
        raise DataError(
            f"Every image must be decodable, but {len(failures)} of {len(tasks)} are not: "
            f"{listed(sorted(failures))}; mend or remove them."
        )
    return [r for r in results if r is not None]


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"  # Pillow's own words repeat the whole path
    return str(error) or type(error).__name__
