"""Image files that nobody has labelled."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from finetune.data.datasets import Sample
from finetune.data.decode import open_image
from finetune.data.inputs import BATCH_SIZE, decoded, image_files, require_paths
from finetune.data.stream import evaluation_stream
from finetune.errors import DataError
from tests.builders.images import photo


def test_folders_are_searched_in_order_and_named_files_taken_as_they_are(tmp_path: Path) -> None:
    for name in (
        "b/2.PNG",
        "b/1.png",
        "b/deep/er/3.jpg",
        "b/notes.txt",
        "b/.hidden.png",
        "b/.git/4.png",
        "a.dat",
    ):
        photo(tmp_path / name, 0, format="PNG")
    (tmp_path / "b" / "loop").symlink_to(tmp_path / "b")
    found = list(image_files([tmp_path / "a.dat", tmp_path / "b"]))
    assert found == [tmp_path / name for name in ("a.dat", "b/1.png", "b/2.PNG", "b/deep/er/3.jpg")]


def test_a_path_with_nothing_there() -> None:
    with pytest.raises(DataError, match=r"nothing at no\\nwhere;"):
        require_paths([Path("no\nwhere")])


def test_pixels_are_those_of_evaluation(tmp_path: Path) -> None:
    paths = [photo(tmp_path / f"{i}.png", i, 40 + i, 50) for i in range(3)]
    (batch,) = decoded(paths, 16, 2)
    stream = evaluation_stream([Sample(p.name, 0, p) for p in paths], 16, 1)
    np.testing.assert_array_equal(batch.pixels.numpy(), np.stack([stream.image(i) for i in range(3)]))
    assert batch.paths == paths
    assert batch.problems == {}


def test_files_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    good = photo(tmp_path / "good.png", 0)
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:200])
    (tmp_path / "text.jpg").write_text("not a photo")
    os.mkfifo(tmp_path / "pipe.png")
    paths = [tmp_path / name for name in ("cut.png", "good.png", "gone.png", "pipe.png", "text.jpg")]
    (batch,) = decoded(paths, 8, 1)
    assert len(batch.pixels) == 1
    assert sorted(batch.problems) == [0, 2, 3, 4]
    assert batch.problems[3] == "not a regular file"
    assert batch.problems[4] == "not an image"
    assert open_image(Sample("good", 0, good)).size == (24, 20)


def test_files_are_taken_as_they_are_needed(tmp_path: Path) -> None:
    path, n_taken = photo(tmp_path / "x.png", 0), 0

    def endless() -> Iterator[Path]:
        nonlocal n_taken
        while True:
            n_taken += 1
            yield path

    batches = decoded(endless(), 8, 2)
    for _ in range(3):
        next(batches)
    batches.close()
    assert n_taken <= (3 + 2 + 1) * BATCH_SIZE
