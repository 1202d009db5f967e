"""Perceptual hashes: numbers of images that stay alike when they are resized, re-encoded, lit or mirrored.

The hash of an image is the signs of the 255 lowest frequencies of its discrete cosine transform, without the
mean, on 32 x 32 gray levels: the hash of Zauner (2010, "Implementation and Benchmarking of Perceptual Image
Hash Functions") with four times the bits and a threshold of zero. Mirroring an image negates its odd
horizontal frequencies, so that one hash serves both. The arithmetic is in whole numbers: two machines that
decode an image equally give it the same hash.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

Hashes = npt.NDArray[np.uint64]
"""[n x 4]: 255 signs each; the last bit says whether the image can be compared."""

WORDS = 4
BITS = 64 * WORDS - 1

MAX_DISTANCE = 36
"""Different signs up to which two images count as near-duplicates (docs/near-duplicates.md)."""

SIDE = 32
"""Images with a shorter side say too little to be told from others, and are not compared."""

LEAST_CONTRAST = 4.0
"""Standard deviation in gray levels below which the signs are noise; photos have 8 and more."""

ROWS, COLUMNS = 1024, 8192
"""Images that are compared at once: 32 MB of distances."""


def _frequencies() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Vertical and horizontal frequency [255] of each bit, the lowest first."""
    square = [(v, h) for v in range(SIDE) for h in range(SIDE)]
    lowest = sorted(square, key=lambda f: (f[0] + f[1], f[0]))[1 : BITS + 1]
    return np.array([v for v, _ in lowest]), np.array([h for _, h in lowest])


VERTICAL, HORIZONTAL = _frequencies()
ODD = HORIZONTAL % 2 == 1
COSINES = np.round(
    np.cos(np.pi / (2 * SIDE) * np.outer(np.arange(SIDE), 2 * np.arange(SIDE) + 1)) * (1 << 14)
).astype(np.int64)


def perceptual_hash(image: Image.Image) -> npt.NDArray[np.uint64]:
    """The hash [4] of an RGB image; zeros if it cannot be compared."""
    if min(image.size) < SIDE:
        return np.zeros(WORDS, dtype=np.uint64)
    small = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=3.0)
    gray = np.asarray(small.convert("L")).astype(np.int64)
    if gray.std() < LEAST_CONTRAST:
        return np.zeros(WORDS, dtype=np.uint64)
    spectrum = COSINES @ gray @ COSINES.T
    bits = np.append(spectrum[VERTICAL, HORIZONTAL] > 0, True)
    return np.packbits(bits).view(np.uint64)


def comparable(hashes: Hashes) -> npt.NDArray[np.bool_]:
    """Whether each image [n] can be compared."""
    known: npt.NDArray[np.bool_] = _bits(hashes)[:, BITS] == 1
    return known


def _bits(hashes: Hashes) -> npt.NDArray[np.uint8]:
    return np.unpackbits(np.ascontiguousarray(hashes).view(np.uint8).reshape(len(hashes), -1), axis=1)


def _signs(hashes: Hashes) -> tuple[torch.Tensor, torch.Tensor]:
    """Signs of the even and of the odd frequencies, +1 and -1, or 0 for an image that cannot be compared."""
    bits = _bits(hashes)
    signs = (2.0 * bits[:, :BITS] - 1) * bits[:, BITS:]
    both = torch.from_numpy(signs.astype(np.float32))
    odd = torch.from_numpy(ODD)
    return both[:, ~odd].contiguous(), both[:, odd].contiguous()


def _tiles(
    first: Hashes, second: Hashes, upper: bool = False
) -> Iterator[tuple[int, int, torch.Tensor, torch.Tensor]]:
    """Blocks of the distances between two sets: where they begin, distances, and whether mirrored ones.

    A mirrored image has the same products of even frequencies and the opposite products of odd ones, so
    that two matrix products give both distances. Every value is a whole number, exact in float32.

    Args:
        first: [n x 4].
        second: [m x 4].
        upper: leave out blocks that are wholly below the diagonal.
    """
    (even, odd), (others_even, others_odd) = _signs(first), _signs(second)
    for row in range(0, len(first), ROWS):
        rows = slice(row, row + ROWS)
        for column in range(0, len(second), COLUMNS):
            columns = slice(column, column + COLUMNS)
            if upper and columns.stop <= row:
                continue
            product = odd[rows] @ others_odd[columns].T
            alike = even[rows] @ others_even[columns].T + product.abs()
            yield row, column, (BITS - alike) / 2, product < 0


def nearest(
    hashes: Hashes, others: Hashes
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """For each image the most similar other one, its distance, and whether it is mirrored.

    An image that cannot be compared has a distance above `MAX_DISTANCE` to all.

    Args:
        hashes: [n x 4].
        others: [m x 4], m at least 1.
    """
    index = torch.zeros(len(hashes), dtype=torch.int64)
    distance = torch.full((len(hashes),), float(BITS + 1))
    mirrored = torch.zeros(len(hashes), dtype=torch.bool)
    for row, column, distances, is_mirrored in _tiles(hashes, others):
        rows = slice(row, row + len(distances))
        least, where = distances.min(dim=1)
        closer = least < distance[rows]
        index[rows] = torch.where(closer, where + column, index[rows])
        mirrored[rows] = torch.where(closer, is_mirrored.gather(1, where[:, None])[:, 0], mirrored[rows])
        distance[rows] = torch.where(closer, least, distance[rows])
    return index.numpy(), distance.ceil().long().numpy(), mirrored.numpy()


def clusters(hashes: Hashes) -> npt.NDArray[np.int64]:
    """A number [n] for each image, the same for near-duplicates and for near-duplicates of those."""
    from scipy.sparse import coo_array  # takes a fifth of a second, and few runs need it
    from scipy.sparse.csgraph import connected_components

    labels = np.arange(len(hashes))
    for row, column, distances, _ in _tiles(hashes, hashes, upper=True):
        near = (distances <= MAX_DISTANCE).nonzero().numpy()
        pairs = near[near[:, 0] + row < near[:, 1] + column]
        if len(pairs):
            ends = labels[pairs[:, 0] + row], labels[pairs[:, 1] + column]
            joined = coo_array((np.ones(len(pairs)), ends), shape=(len(labels), len(labels)))
            labels = connected_components(joined, directed=False)[1][labels]
    return labels.astype(np.int64)
