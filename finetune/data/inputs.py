"""Image files that nobody has labelled: found in folders, decoded by threads, a batch at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from finetune.data.datasets import Sample
from finetune.data.decode import UNREADABLE, open_image, reason
from finetune.data.formats import format_of
from finetune.data.sources import ahead
from finetune.data.stream import as_evaluated
from finetune.errors import DataError, listed

BATCH_SIZE = 64
"""Small, so that a few photos keep several threads busy; 32 takes a network at 32 pixels a fifth longer."""


@dataclass(frozen=True)
class Batch:
    """Files that were decoded together, in order.

    Args:
        paths: of all files.
        problems: why a file could not be decoded, by its index.
        pixels: [n x height x width x 3] uint8 of the n others.
    """

    paths: Sequence[Path]
    problems: dict[int, str]
    pixels: torch.Tensor


def require_paths(paths: Iterable[Path]) -> None:
    """Check that there is something at each path.

    Raises:
        DataError: there is not.
    """
    missing = [ascii(str(path))[1:-1] for path in paths if not os.path.lexists(path)]
    if missing:
        raise DataError(
            f"Each path must name an image or a folder of images, but there is nothing at {listed(missing)}; "
            "check the spelling."
        )


def image_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Every file that is named, and every image below every folder that is named.

    Folders are listed one after another, with names in order; hidden files and folders, links to folders and
    files whose suffix is not an image's are left out; images in formats that are not read are not, so that
    each of them is reported. A file that is named is taken whatever its name.

    Raises:
        DataError: a folder cannot be listed.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for where, folders, names in os.walk(path, onerror=_raise):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield from (path for name in sorted(names) if format_of(path := Path(where, name)))


def _raise(error: OSError) -> None:
    raise DataError(
        f"Each folder must be readable, but {error.filename!a} cannot be listed ({error.strerror}); check "
        "its permissions."
    ) from error


def decoded(files: Iterable[Path], image_size: int, workers: int) -> Iterator[Batch]:
    """The files as evaluation sees them, in order; memory does not grow with their number.

    Args:
        files: taken from the iterator as they are needed.
        image_size: height and width of the network's input.
        workers: threads that decode ahead of the caller.
    """

    def batch(paths: Sequence[Path]) -> Batch:
        problems, pixels = {}, []
        for index, path in enumerate(paths):
            try:
                if not path.is_file():  # reading a named pipe would never end
                    raise FileNotFoundError(0, "not a regular file")
                image = open_image(Sample(path.name, 0, path))
                pixels.append(np.asarray(as_evaluated(image, image_size)))
            except UNREADABLE as error:
                problems[index] = reason(error)
        empty = np.empty((0, image_size, image_size, 3), np.uint8)
        return Batch(paths, problems, torch.from_numpy(np.stack(pixels) if pixels else empty))

    with ThreadPoolExecutor(workers) as pool:
        yield from ahead(pool, batch, _batches(files), workers)


def _batches(files: Iterable[Path]) -> Iterator[Sequence[Path]]:
    iterator = iter(files)
    while batch := list(islice(iterator, BATCH_SIZE)):
        yield batch
