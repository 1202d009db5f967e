"""Reads the arrays of numbers in a MATLAB 5 file, the format of Flowers-102's labels.

Source: The MathWorks, *MAT-File Format* (2019), chapter 1. Only what these files use: little-endian
matrices of numbers, compressed or not.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HEADER = 128
MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
NUMERIC_CLASSES = {bytes([number]) for number in range(6, 16)}
"""From double to uint64; below are cells, structures, objects, text and sparse matrices."""
MOST_BYTES = 64 * 1024 * 1024


def read_matrices(content: bytes) -> "dict[str, NDArray[np.generic]]":
    """The matrices of numbers in a file, by name, each as one row of all its numbers, column by column.

    Raises:
        ValueError: This is not a MATLAB 5 file of numbers, or it is damaged.
    """
    if content[124:HEADER] != b"\x00\x01IM":
        raise ValueError("not a little-endian MATLAB 5 file")
    try:
        return dict(_matrix(body) for body in _matrices(content[HEADER:]))
    except (struct.error, zlib.error, KeyError) as error:
        raise ValueError(f"damaged: {error}") from error


def _matrices(content: bytes) -> Iterator[bytes]:
    for kind, body in _elements(content, align=1):
        if kind == COMPRESSED:
            ((kind, body),) = _elements(_inflated(body), align=8)
        if kind != MATRIX:
            raise ValueError(f"an element of kind {kind} instead of a matrix")
        yield body


def _inflated(body: bytes) -> bytes:
    inflater = zlib.decompressobj()
    inflated = inflater.decompress(body, MOST_BYTES)
    if not inflater.eof:
        raise ValueError("a compressed matrix is too large or cut off")
    return inflated


def _matrix(body: bytes) -> "tuple[str, NDArray[np.generic]]":
    import numpy as np

    (_, flags), (_, shape), (_, name), (kind, numbers), *_ = _elements(body, align=8)
    if flags[:1] not in NUMERIC_CLASSES:
        raise ValueError("a matrix of something other than numbers")
    found = np.frombuffer(numbers, NUMBERS[kind])
    if np.prod(np.frombuffer(shape, "<i4"), dtype=np.int64) != len(found):
        raise ValueError("a matrix whose size is not that of its numbers")
    return name.decode("ascii"), found


def _elements(content: bytes, align: int) -> Iterator[tuple[int, bytes]]:
    """Kind and content of each element; one of at most four bytes stands in its own tag."""
    start = 0
    while start < len(content):
        word, size = struct.unpack_from("<II", content, start)
        within, kind = divmod(word, 1 << 16)
        body = start + (4 if within else 8)
        size = within or size
        if body + size > len(content):
            raise ValueError("cut off")
        yield kind, content[body : body + size]
        start = start + 8 if within else body + size + -size % align
