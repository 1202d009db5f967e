"""Images decoded when they are asked for, in threads, at the size in which they are stored or seen.

Training images keep up to twice the network's input size, so that most random crops are taken from real
pixels; validation and test images are as the network sees them, resized and cropped from the original.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from finetune.data import decode as images
from finetune.data.datasets import Sample
from finetune.data.decode import UNREADABLE, reason
from finetune.errors import BadImagesError

Item = TypeVar("Item")
Result = TypeVar("Result")
Pixels = npt.NDArray[np.uint8]

RESIZE_RATIO = 256 / 224
"""Evaluation resizes the short side to this multiple of the input size (Krizhevsky et al. 2012)."""

TRAIN_RATIO = 2.0
"""Stored short side of a training image, at most, as a multiple of the input size. Whoever changes it raises
`entry.FORMAT`, since kept entries do not tell it."""

MOST_PIXELS = 1 << 26
"""An image that would have more when resized for evaluation is cut to its middle first."""

LONGEST = 8
"""Long over short side of that middle: far more than the centre crop sees."""


@dataclass(frozen=True)
class Stream:
    """Images that are decoded whenever they are asked for, by threads.

    Args:
        samples: in order.
        sizes: [n x 2] height and width of each image as it is given out.
        transform: from the upright RGB image to the one given out.
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
        """What all images take, uint8."""
        return int(lengths(self.sizes).sum())

    def __getitem__(self, part: slice) -> Stream:
        """Only some of the images."""
        return replace(self, samples=self.samples[part], sizes=self.sizes[part])

    def image(self, index: int) -> Pixels:
        """Image `index` [height x width x 3].

        Raises:
            BadImagesError: it could be read before training and no longer can.
        """
        try:
            return self.decoded(index)
        except UNREADABLE as error:
            raise BadImagesError({self.samples[index].id: reason(error)}) from error

    def decoded(self, index: int) -> Pixels:
        """Image `index`, as `image` gives it.

        Raises:
            UNREADABLE: it is damaged, or of another size than before.
        """
        pixels = np.asarray(self.transform(images.open_image(self.samples[index])))
        if pixels.shape[:2] != tuple(self.sizes[index]):
            raise ValueError("its size is not what its header said")
        return pixels

    def split(self, batch_size: int) -> Iterator[torch.Tensor]:
        """All images in order, [b x height x width x 3] uint8 at a time; they must be of one size."""

        def batch(start: int) -> torch.Tensor:
            return torch.from_numpy(
                np.stack([self.image(i) for i in range(start, min(start + batch_size, len(self)))])
            )

        with ThreadPoolExecutor(self.workers) as pool:
            yield from ahead(pool, batch, range(0, len(self), batch_size), self.workers)


def lengths(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Bytes [n] of RGB images of heights and widths [n x 2], uint8."""
    found: npt.NDArray[np.int64] = sizes[:, 0] * sizes[:, 1] * 3
    return found


def train_size(height: int, width: int, image_size: int) -> tuple[int, int]:
    """Stored height and width of a training image: short side at most `TRAIN_RATIO * image_size`."""
    scale = min(1.0, TRAIN_RATIO * image_size / min(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def training_stream(samples: Sequence[Sample], image_size: int, workers: int) -> Stream:
    """Training images at up to twice the input size; only their headers are read."""

    def resized(image: Image.Image) -> Image.Image:
        height, width = train_size(image.height, image.width, image_size)
        if (image.height, image.width) == (height, width):
            return image
        return image.resize((width, height), Image.Resampling.BILINEAR)

    headers = each(lambda index: images.image_size(samples[index]), samples, workers, {})
    shapes = [train_size(*(size or (1, 1)), image_size) for size in headers]  # a bad one fails when decoded
    return Stream(samples, np.array(shapes, dtype=np.int64).reshape(-1, 2), resized, workers)


def evaluation_stream(samples: Sequence[Sample], image_size: int, workers: int) -> Stream:
    """Images as evaluation sees them: short side to 256/224 of the input size, centre crop."""

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

    return Stream(samples, np.full((len(samples), 2), image_size, dtype=np.int64), cropped, workers)


def visit(
    stream: Stream, tick: Callable[[int], None], take: Callable[[int, Pixels], None] = lambda *_: None
) -> None:
    """Decode every image once; without `take` only to know all bad ones before training.

    Args:
        stream: the images.
        tick: called with 1 after each.
        take: given each image's number and pixels, by threads.

    Raises:
        BadImagesError: images that cannot be decoded, each with its reason.
    """
    bad: dict[str, str] = {}

    def one(index: int) -> None:
        take(index, stream.decoded(index))
        tick(1)

    each(one, stream.samples, stream.workers, bad)
    if bad:
        raise BadImagesError(bad)


def _central(image: Image.Image, short: int) -> Image.Image:
    """The middle of an image so long that the whole, resized to short side `short`, could fill memory."""
    shape = np.array(image.size)
    if short**2 * shape.max() <= MOST_PIXELS * shape.min():
        return image
    width, height = np.minimum(shape, LONGEST * shape.min()).tolist()
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def ahead(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], most: int
) -> Iterator[Result]:
    """The work's result for each item, in order, made by threads up to `most` items ahead."""
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def each(
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
