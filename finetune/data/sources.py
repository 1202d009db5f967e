"""The interface through which training and evaluation get the images of a split, wherever they are."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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


def augmented_by_threads(
    image: Callable[[int], Pixels], plan: Plan, batches: Sequence[Index], image_size: int, workers: int
) -> Iterator[tuple[Index, torch.Tensor]]:
    """Augmented images, cropped by threads at least two batches ahead of the caller.

    Args:
        image: returns image i [height x width x 3].
        plan: crop and flip of each image.
        batches: image indices [b] of each batch.
        image_size: height and width of the results.
        workers: threads.
    """

    def augmented(index: Index) -> tuple[Index, torch.Tensor]:
        pixels = [crop(image(i), plan.boxes[i], bool(plan.flips[i]), image_size) for i in index]
        return index, torch.from_numpy(np.stack(pixels))

    with ThreadPoolExecutor(workers) as pool:
        yield from ahead(pool, augmented, batches, max(2, workers))


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
