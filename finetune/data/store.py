"""Images decoded once, into one flat uint8 array in memory or in a file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from finetune.data.augment import Pixels
from finetune.data.perceptual import WORDS, Hashes
from finetune.data.sources import WHOLE, CroppedByThreads
from finetune.data.stream import StreamedImages, byte_counts, visit
from finetune.errors import DataError, sized
from finetune.system.host import available_memory_bytes

Allocate = Callable[[int], Pixels]
"""Returns a flat array of that many bytes, in memory or in a file."""


@dataclass(frozen=True)
class StoredImages(CroppedByThreads):
    """Decoded images, one after another in one flat array.

    Args:
        pixels: [sum of height x width x 3] uint8.
        sizes: [n x 2] height and width of each image.
        hashes: [n x 4] perceptual hashes; empty if nobody asked for them.
    """

    pixels: Pixels
    sizes: npt.NDArray[np.int64]
    hashes: Hashes = field(default_factory=lambda: np.zeros((0, WORDS), dtype=np.uint64))

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Where each image begins in `pixels` [n]."""
        counts = byte_counts(self.sizes)
        return np.cumsum(counts) - counts

    @property
    def in_memory(self) -> bool:
        """Whether the pixels are in memory rather than in a file."""
        return not isinstance(self.pixels, np.memmap)

    def __len__(self) -> int:
        return len(self.sizes)

    def image(self, index: int) -> Pixels:
        """Image `index` [height x width x 3], a view."""
        height, width = self.sizes[index]
        start = self.offsets[index]
        return self.pixels[start : start + height * width * 3].reshape(height, width, 3)

    def batches(self, batch_size: int, part: slice = WHOLE) -> Iterator[torch.Tensor]:
        """Images in order, as views; see `ImageSource`."""
        return equally_sized(torch.from_numpy(self.pixels), self.sizes, batch_size, part)


def equally_sized(
    pixels: torch.Tensor, sizes: npt.NDArray[np.int64], batch_size: int, part: slice
) -> Iterator[torch.Tensor]:
    """Batches [b x height x width x 3] of images of one size in a flat array, as views."""
    yield from torch.split(pixels.view(len(sizes), *sizes[0].tolist(), 3)[part], batch_size)


def allocate(n_bytes: int) -> Pixels:
    """Memory if at least as much again stays free, else a temporary file that is deleted on exit."""
    if n_bytes < available_memory_bytes() // 2:
        return np.empty(n_bytes, dtype=np.uint8)
    with tempfile.TemporaryFile(prefix="finetune-store-") as file:  # the mapping holds it open
        try:
            reserve(file.fileno(), n_bytes)
        except OSError as error:
            raise DataError(
                f"The decoded images need {sized(n_bytes)}, more than half of the free memory, and "
                f"the folder for temporary files cannot hold them ({error.strerror}); free disk "
                "space, set TMPDIR to another folder, use --store off, or use fewer images with --subset."
            ) from error
        return np.memmap(file, dtype=np.uint8, mode="w+", shape=(n_bytes,))


def reserve(file: int, n_bytes: int) -> None:
    """Allocate disk space now: a process that writes to a mapped file is killed when the disk is full.

    Raises:
        OSError: the disk has too little space.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, n_bytes)


def decode(
    images: StreamedImages, tick: Callable[[int], None], allocate: Allocate = allocate
) -> StoredImages:
    """Decode and store every image.

    Args:
        images: to decode.
        tick: called with 1 after each.
        allocate: gives the array for all pixels.

    Raises:
        BadImagesError: images that cannot be decoded, each with its reason.
    """
    store = StoredImages(allocate(images.n_bytes), images.sizes)

    def put(index: int, pixels: Pixels) -> None:
        store.image(index)[:] = pixels

    return replace(store, hashes=visit(images, tick, put))
