"""Images decoded on demand by threads, at the size in which they are stored or evaluated.

Training images keep up to twice the network's input size, so that most random crops are cut from real pixels;
validation and test images are as the network sees them, resized and cropped from the original.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from finetune.data import decode
from finetune.data.augment import Pixels
from finetune.data.datasets import Sample
from finetune.data.decode import UNREADABLE, reason
from finetune.data.perceptual import WORDS, Hashes, perceptual_hash
from finetune.data.sources import WHOLE, CroppedByThreads, ahead
from finetune.errors import BadImagesError

Result = TypeVar("Result")

RESIZE_RATIO = 256 / 224
"""Evaluation resizes the short side to this multiple of the input size (Krizhevsky et al. 2012)."""

TRAIN_RATIO = 2.0
"""Longest stored short side of a training image, as a multiple of the input size. Cache entries do not record
it, so whoever changes it must raise their `FORMAT`."""

MOST_PIXELS = 1 << 26
"""An image that would have more when resized for evaluation is cut to its center first."""

LONGEST = 8
"""Long over short side of that center: far more than the center crop sees."""


@dataclass(frozen=True)
class StreamedImages(CroppedByThreads):
    """Images that are decoded by threads every time they are needed.

    Args:
        samples: in order.
        sizes: [n x 2] height and width of each image after `transform`.
        transform: resizes, and may crop, the upright RGB image.
        workers: threads.
    """

    samples: Sequence[Sample]
    sizes: npt.NDArray[np.int64]
    transform: Callable[[Image.Image], Image.Image]
    workers: int

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def n_bytes(self) -> int:
        """Size of all decoded images."""
        return int(byte_counts(self.sizes).sum())

    def image(self, index: int) -> Pixels:
        """Image `index` [height x width x 3].

        Raises:
            BadImagesError: it was readable before training and no longer is.
        """
        try:
            return self.decoded(index)
        except UNREADABLE as error:
            raise BadImagesError({self.samples[index].id: reason(error)}) from error

    def decoded(self, index: int) -> Pixels:
        """Image `index` [height x width x 3].

        Raises:
            UNREADABLE: it is damaged, or its size has changed.
        """
        return self.transformed(index, decode.open_image(self.samples[index]))

    def transformed(self, index: int, image: Image.Image) -> Pixels:
        """The pixels of image `index`, which was opened before.

        Raises:
            ValueError: its size has changed.
        """
        pixels = np.asarray(self.transform(image))
        if pixels.shape[:2] != tuple(self.sizes[index]):
            raise ValueError("its size differs from the one in its header")
        return pixels

    def batches(self, batch_size: int, part: slice = WHOLE) -> Iterator[torch.Tensor]:
        """Images in order; see `ImageSource`."""
        indices = range(len(self))[part]

        def batch(start: int) -> torch.Tensor:
            return torch.from_numpy(np.stack([self.image(i) for i in indices[start : start + batch_size]]))

        with ThreadPoolExecutor(self.workers) as pool:
            yield from ahead(pool, batch, range(0, len(indices), batch_size), self.workers)


def byte_counts(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Bytes [n] that uint8 RGB images of these heights and widths [n x 2] take."""
    counts: npt.NDArray[np.int64] = sizes[:, 0] * sizes[:, 1] * 3
    return counts


def train_size(height: int, width: int, image_size: int) -> tuple[int, int]:
    """Stored height and width of a training image: short side at most `TRAIN_RATIO * image_size`."""
    scale = min(1.0, TRAIN_RATIO * image_size / min(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def training_stream(samples: Sequence[Sample], image_size: int, workers: int) -> StreamedImages:
    """Training images at up to twice the input size; reads their headers only."""

    def resized(image: Image.Image) -> Image.Image:
        height, width = train_size(image.height, image.width, image_size)
        if (image.height, image.width) == (height, width):
            return image
        return image.resize((width, height), Image.Resampling.BILINEAR)

    headers = _for_each(lambda index: decode.image_size(samples[index]), samples, workers, {})
    shapes = [
        train_size(*(size or (1, 1)), image_size) for size in headers
    ]  # a damaged one fails when it is decoded
    return StreamedImages(samples, np.array(shapes, dtype=np.int64).reshape(-1, 2), resized, workers)


def evaluation_stream(samples: Sequence[Sample], image_size: int, workers: int) -> StreamedImages:
    """Images as evaluation sees them."""
    sizes = np.full((len(samples), 2), image_size, dtype=np.int64)
    return StreamedImages(samples, sizes, functools.partial(as_evaluated, image_size=image_size), workers)


def unstored_stream(samples: Sequence[Sample], workers: int) -> StreamedImages:
    """Images of which no pixel is stored, only what `visit` returns of them."""
    nothing = np.zeros((len(samples), 2), dtype=np.int64)
    return StreamedImages(samples, nothing, lambda image: image.crop((0, 0, 0, 0)), workers)


def as_evaluated(image: Image.Image, image_size: int) -> Image.Image:
    """An image as evaluation sees it: short side resized to 256/224 of the input size, center crop."""
    short = round(image_size * RESIZE_RATIO)
    image = _central(image, short)
    least = min(image.height, image.width)
    # Multiplied before divided, as torchvision does: the other order sometimes loses a pixel to rounding.
    width, height = int(short * image.width / least), int(short * image.height / least)
    left, top = round((width - image_size) / 2), round((height - image_size) / 2)
    return image.resize((width, height), Image.Resampling.BILINEAR).crop(
        (left, top, left + image_size, top + image_size)
    )


def visit(
    images: StreamedImages, tick: Callable[[int], None], take: Callable[[int, Pixels], None] = lambda *_: None
) -> Hashes:
    """Decode every image once; without `take`, only to find all unreadable images before training.

    Args:
        images: to decode.
        tick: called with 1 after each.
        take: called by threads with the number and the pixels of each image.

    Returns:
        Their perceptual hashes.

    Raises:
        BadImagesError: images that cannot be decoded, each with its reason.
    """
    bad: dict[str, str] = {}
    hashes = np.zeros((len(images), WORDS), dtype=np.uint64)

    def one(index: int) -> None:
        image = decode.open_image(images.samples[index])
        take(index, images.transformed(index, image))
        hashes[index] = perceptual_hash(image)
        tick(1)

    _for_each(one, images.samples, images.workers, bad)
    if bad:
        raise BadImagesError(bad)
    return hashes


def _central(image: Image.Image, short: int) -> Image.Image:
    """The center of an image so elongated that all of it, resized for evaluation, could fill memory."""
    shape = np.array(image.size)
    if short**2 * shape.max() <= MOST_PIXELS * shape.min():
        return image
    width, height = np.minimum(shape, LONGEST * shape.min()).tolist()
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _for_each(
    work: Callable[[int], Result], samples: Sequence[Sample], workers: int, bad: dict[str, str]
) -> list[Result | None]:
    """Do the work for every sample's index in threads (Pillow releases the interpreter's lock).

    A sample that cannot be read yields None and is added to `bad`, so that all of them can be reported at
    once.
    """

    def attempt(index: int) -> Result | None:
        try:
            return work(index)
        except UNREADABLE as error:
            bad[samples[index].id] = reason(error)
            return None

    with warnings.catch_warnings():
        # Pillow warns of odd metadata; what cannot be decoded still raises.
        warnings.simplefilter("ignore")
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(attempt, range(len(samples))))
