"""MATLAB 5 files, written by SciPy."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from grader.reading.matlab import read_matrices
from tests.machine import real_data

ARRAYS = {
    "labels": np.arange(1, 60, dtype=np.uint8),
    "one": np.array([[7]], np.uint16),
    "few": np.array([[1, -2]], np.int16),
    "empty": np.empty((0, 0)),
    "grid": np.arange(6.0).reshape(2, 3),
    "wide": np.arange(3, dtype=np.uint64),
}


def written(compressed: bool = True, **arrays: object) -> bytes:
    file = io.BytesIO()
    savemat(file, arrays or ARRAYS, do_compression=compressed)
    return file.getvalue()


@pytest.mark.parametrize("compressed", [True, False])
def test_arrays(compressed: bool) -> None:
    found = read_matrices(written(compressed))
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array.ravel("F"))


@pytest.mark.parametrize("name", ["imagelabels", "setid"])
def test_the_files_of_flowers102(name: str) -> None:
    content = (real_data("flowers-102") / f"{name}.mat").read_bytes()
    expected = {k: v for k, v in loadmat(io.BytesIO(content)).items() if not k.startswith("__")}
    found = read_matrices(content)
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_array_equal(found[key], array.ravel())


@pytest.mark.parametrize(
    "value", ["text", {"a": 1}, np.array([1, "x"], object)], ids=["text", "struct", "cell"]
)
def test_other_than_numbers(value: object) -> None:
    with pytest.raises(ValueError, match="other than numbers"):
        read_matrices(written(x=value))


@pytest.mark.parametrize("compressed", [True, False])
def test_cut_off_anywhere(compressed: bool) -> None:
    content = written(compressed, labels=np.arange(40))
    for length in range(len(content)):
        if length != 128:  # a file of nothing
            with pytest.raises(ValueError, match=r"."):
                read_matrices(content[:length])


def test_any_byte_changed() -> None:
    """It is read, or refused in one way."""
    content = written(False, labels=np.arange(40, dtype=np.uint8))
    for at in range(len(content)):
        for value in (0, 1, 127, 255):
            try:
                read_matrices(content[:at] + bytes([value]) + content[at + 1 :])
            except ValueError:
                continue


def test_a_header_that_says_big_endian() -> None:
    content = written()
    with pytest.raises(ValueError, match="not a little-endian MATLAB 5 file"):
        read_matrices(content[:124] + struct.pack(">H", 0x0100) + b"MI" + content[128:])


def test_a_matrix_that_grows_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grader.reading.matlab.MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="too large"):
        read_matrices(written(x=np.zeros(10_000)))
