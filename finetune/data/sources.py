"""The interface through which training and evaluation get the images of a split, wherever they are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from finetune.data.augment import Index, Pixels, Plan, crop

Item = TypeVar("Item")
Result = TypeVar("Result")

WHOLE = slice(None)


class ImageSource(Protocol):
    """The images of one split, in order: stored, streamed from their files, or on a GPU."""

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """[n x 2] height and width of each image."""
        ...

    def __len__(self) -> int: ...

    def augmented(
        self, plan: Plan, batches: Sequence[Index], image_size: int, workers: int
    ) -> Iterator[tuple[Index, torch.Tensor]]:
        """Augmented training images.

        Args:
            plan: crop and flip of each image.
            batches: image indices [b] of each batch.
            image_size: height and width of the network's input.
            workers: threads that work ahead of the caller.

        Yields:
            The indices of each batch and its images [b x image_size x image_size x 3] uint8.
        """
        ...

    def batches(self, batch_size: int, part: slice = WHOLE) -> Iterator[torch.Tensor]:
        """Images in order, [b x height x width x 3] uint8 at a time; all must have the same size.

        Args:
            batch_size: images at a time; the last batch may have fewer.
            part: the images wanted.
        """
        ...


@dataclass(frozen=True)
class Selection:
    """Some of the images of a source, in an order of their own, without a copy of their pixels.

    Args:
        images: to select from.
        index: [n] which ones.
        workers: threads that copy images into batches.
    """

    images: ImageSource
    index: Index
    workers: int

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """[n x 2] height and width of each image."""
        return self.images.sizes[self.index]

    def __len__(self) -> int:
        return len(self.index)

    def augmented(
        self, plan: Plan, batches: Sequence[Index], image_size: int, workers: int
    ) -> Iterator[tuple[Index, torch.Tensor]]:
        """Augmented training images; see `ImageSource`."""
        boxes = np.zeros((len(self.images), 4), dtype=plan.boxes.dtype)
        flips = np.zeros(len(self.images), dtype=plan.flips.dtype)
        boxes[self.index], flips[self.index] = plan.boxes, plan.flips
        chosen = [self.index[batch] for batch in batches]
        found = self.images.augmented(Plan(plan.order, boxes, flips), chosen, image_size, workers)
        yield from ((batch, pixels) for batch, (_, pixels) in zip(batches, found, strict=True))

    def batches(self, batch_size: int, part: slice = WHOLE) -> Iterator[torch.Tensor]:
        """Images in order; see `ImageSource`. A crop of all of an image at its own size is the image."""
        sizes = self.sizes
        whole = np.concatenate([np.zeros_like(sizes), sizes[:, ::-1]], axis=1).astype(np.float32)
        plan = Plan(np.arange(len(self)), whole, np.zeros(len(self), dtype=bool))
        numbers = plan.order[part]
        split = [numbers[i : i + batch_size] for i in range(0, len(numbers), batch_size)]
        yield from (pixels for _, pixels in self.augmented(plan, split, int(sizes[0, 0]), self.workers))


class CroppedByThreads(ABC):
    """Images that threads crop, at least two batches ahead of the caller."""

    @abstractmethod
    def image(self, index: int) -> Pixels:
        """Image `index` [height x width x 3]."""

    def augmented(
        self, plan: Plan, batches: Sequence[Index], image_size: int, workers: int
    ) -> Iterator[tuple[Index, torch.Tensor]]:
        """Augmented training images; see `ImageSource`."""

        def batch(index: Index) -> tuple[Index, torch.Tensor]:
            pixels = [crop(self.image(i), plan.boxes[i], bool(plan.flips[i]), image_size) for i in index]
            return index, torch.from_numpy(np.stack(pixels))

        with ThreadPoolExecutor(workers) as pool:
            yield from ahead(pool, batch, batches, max(2, workers))


def ahead(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], most: int
) -> Iterator[Result]:
    """The result of the work on each item, in order, computed by threads up to `most` items ahead."""
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > most:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
