"""Every image decoded once into one flat uint8 array, in memory or in a file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from finetune.data.stream import Pixels, Stream, lengths, visit
from finetune.errors import DataError
from finetune.system.host import available_memory_bytes

Allocate = Callable[[int], Pixels]
"""Gives a flat array of that many bytes, in memory or in a file."""


@dataclass(frozen=True)
class Store:
    """Decoded images behind each other in one flat array, in memory or in a file.

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
        """Whether the pixels lie in memory rather than in a file."""
        return not isinstance(self.pixels, np.memmap)

    def __len__(self) -> int:
        return len(self.sizes)

    def image(self, index: int) -> Pixels:
        """Image `index` [height x width x 3], a view."""
        height, width = self.sizes[index]
        start = self.offsets[index]
        return self.pixels[start : start + height * width * 3].reshape(height, width, 3)

    def tensor(self) -> torch.Tensor:
        """All images [n x height x width x 3], a view; they must be of one size."""
        return torch.from_numpy(self.pixels).view(len(self), *self.sizes[0].tolist(), 3)


def store_of(pixels: Pixels, sizes: npt.NDArray[np.int64]) -> Store:
    """Images of heights and widths [n x 2] that lie behind each other without gaps."""
    return Store(pixels, sizes, np.cumsum(lengths(sizes)) - lengths(sizes))


def allocate(n_bytes: int) -> Pixels:
    """Memory where at least as much again stays free, else a temporary file that goes with the process."""
    if n_bytes < available_memory_bytes() // 2:
        return np.empty(n_bytes, dtype=np.uint8)
    with tempfile.TemporaryFile(prefix="finetune-store-") as file:  # the mapping holds it open
        try:
            reserve(file.fileno(), n_bytes)
        except OSError as error:
            raise DataError(
                f"The decoded images need {n_bytes / 1e9:.1f} GB, more than half of the free memory, and "
                f"the folder for temporary files cannot hold them ({error.strerror}); make room, set TMPDIR "
                "to another folder, use --store off, or use fewer images with --subset."
            ) from error
        return np.memmap(file, dtype=np.uint8, mode="w+", shape=(n_bytes,))


def reserve(file: int, n_bytes: int) -> None:
    """Take room on the disk now: a full disk kills a process that writes to a mapping.

    Raises:
        OSError: there is too little.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, n_bytes)


def decode(stream: Stream, tick: Callable[[int], None], allocate: Allocate = allocate) -> Store:
    """Decode every image of a stream.

    Args:
        stream: the images.
        tick: called with 1 after each.
        allocate: asked for the place of all pixels.

    Raises:
        BadImagesError: images that cannot be decoded, each with its reason.
    """
    store = store_of(allocate(stream.n_bytes), stream.sizes)

    def put(index: int, pixels: Pixels) -> None:
        store.image(index)[:] = pixels

    visit(stream, tick, put)
    return store
