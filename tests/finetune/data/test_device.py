"""Crops by matrix products: Pillow's, but for rounding."""

from __future__ import annotations

from collections.abc import Sequence

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import example, given

from finetune.config.experiment import Recipe
from finetune.data.augment import crop, plan_epoch
from finetune.data.device import DeviceImages
from finetune.data.store import StoredImages

Box = tuple[float, float, float, float]
CPU = torch.device("cpu")
WHOLE = (0.0, 0.0, 1.0, 1.0)


def stored(sizes: Sequence[tuple[int, int]], kind: str = "noise") -> StoredImages:
    """Images of these heights and widths."""
    shapes = np.array(sizes, dtype=np.int64).reshape(-1, 2)
    lengths = shapes[:, 0] * shapes[:, 1] * 3
    n = int(lengths.sum())
    rng = np.random.default_rng(n)
    pixels = {
        "noise": rng.integers(0, 256, n),
        "black and white": rng.integers(0, 2, n) * 255,
        "white": np.full(n, 255),
    }[kind]
    return StoredImages(pixels.astype(np.uint8), shapes)


def box_of(size: tuple[int, int], part: Box) -> list[float]:
    """Left, top, right and bottom in pixels from fractions of the image, at least a tenth of a pixel wide."""
    height, width = size
    left, top, right, bottom = part
    box = [left * width, top * height, right * width, bottom * height]
    box[:2] = min(box[0], width - 0.1), min(box[1], height - 0.1)
    return [*box[:2], max(box[2], box[0] + 0.1), max(box[3], box[1] + 0.1)]


def difference(
    store: StoredImages,
    boxes: Sequence[Sequence[float]],
    flips: Sequence[bool],
    image_size: int,
) -> int:
    """The largest difference from Pillow's crops, grey levels."""
    corners, mirrored = np.array(boxes, dtype=np.float32), np.array(flips)
    index = np.arange(len(store))
    found = DeviceImages(store, CPU).crops(index, corners, mirrored, image_size)
    assert found.dtype == torch.uint8
    expected = [crop(store.image(i), corners[i], bool(mirrored[i]), image_size) for i in index]
    return int(np.abs(found.numpy().astype(int) - np.stack(expected)).max())


edges = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)
images = st.tuples(
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.builds(lambda x, y: (x[0], y[0], x[1], y[1]), edges, edges),
    st.booleans(),
)


class TestCrops:
    @given(
        drawn=st.lists(images, min_size=1, max_size=3),
        image_size=st.integers(8, 64),
        kind=st.sampled_from(["noise", "black and white"]),
    )
    @example(
        drawn=[((1, 50), WHOLE, False), ((50, 1), WHOLE, True), ((1, 1), WHOLE, False)],
        image_size=64,
        kind="noise",
    )
    @example(
        drawn=[((16, 900), WHOLE, True), ((900, 2), WHOLE, False)], image_size=16, kind="black and white"
    )
    @example(drawn=[((32, 32), WHOLE, False)], image_size=32, kind="noise")
    def test_equal_those_of_pillow_but_for_rounding(
        self, drawn: list[tuple[tuple[int, int], Box, bool]], image_size: int, kind: str
    ) -> None:
        store = stored([size for size, _, _ in drawn], kind)
        boxes = [box_of(size, part) for size, part, _ in drawn]
        assert difference(store, boxes, [flip for _, _, flip in drawn], image_size) <= 1

    @pytest.mark.parametrize("image_size", [8, 17, 32, 64])
    @pytest.mark.parametrize(
        "part",
        [WHOLE, (0, 0, 0.3, 0.4), (0.7, 0.6, 1, 1), (0, 0.5, 1, 1), (0.5, 0, 0.51, 1), (0.99, 0.99, 1, 1)],
    )
    def test_boxes_at_the_border(self, part: Box, image_size: int) -> None:
        sizes = [(40, 30), (30, 40), (7, 5), (3, 200)]
        assert difference(stored(sizes), [box_of(s, part) for s in sizes], [False] * 4, image_size) <= 1

    def test_a_whole_image_of_the_right_size_is_itself(self) -> None:
        store = stored([(32, 32)] * 3)
        boxes = np.tile(np.array([0, 0, 32, 32], dtype=np.float32), (3, 1))
        found = DeviceImages(store, CPU).crops(np.array([2, 0, 2]), boxes, np.zeros(3, dtype=bool), 32)
        np.testing.assert_array_equal(found.numpy(), np.stack([store.image(i) for i in (2, 0, 2)]))

    def test_white_stays_white(self) -> None:
        sizes = [(5, 9), (90, 61)]
        assert (
            difference(
                stored(sizes, "white"), [box_of(s, (0.1, 0.2, 0.9, 1)) for s in sizes], [True, False], 24
            )
            == 0
        )

    @given(drawn=st.lists(images, min_size=1, max_size=4), image_size=st.integers(8, 40))
    def test_flips_are_exact_mirrors(
        self, drawn: list[tuple[tuple[int, int], Box, bool]], image_size: int
    ) -> None:
        store = DeviceImages(stored([size for size, _, _ in drawn]), CPU)
        boxes = np.array([box_of(size, part) for size, part, _ in drawn], dtype=np.float32)
        index, flips = np.arange(len(drawn)), np.array([flip for _, _, flip in drawn])
        plain = store.crops(index, boxes, np.zeros(len(drawn), dtype=bool), image_size)
        mirrored = store.crops(index, boxes, flips, image_size)
        for i, flip in enumerate(flips):
            assert torch.equal(mirrored[i], plain[i].flip(1) if flip else plain[i])

    def test_an_image_does_not_depend_on_the_others_of_its_batch(self) -> None:
        sizes = [(20, 60), (64, 16), (9, 9), (33, 47)]
        store = DeviceImages(stored(sizes), CPU)
        boxes = np.array([box_of(s, (0.1, 0.15, 0.85, 0.95)) for s in sizes], dtype=np.float32)
        flips = np.array([True, False, True, False])
        together = store.crops(np.arange(4), boxes, flips, 16)
        for i in range(4):
            alone = store.crops(np.array([i]), boxes[i : i + 1], flips[i : i + 1], 16)
            assert (together[i].int() - alone[0].int()).abs().max() <= 1  # sums in another order

    def test_the_crops_of_an_epoch(self) -> None:
        sizes = [(int(h), int(w)) for h, w in np.random.default_rng(4).integers(1, 64, (40, 2))]
        store = stored(sizes)
        plan = plan_epoch(1, 2, store.sizes, Recipe(crop_area_min=0.08, flip_probability=0.5))
        assert 0 < plan.flips.sum() < 40
        assert difference(store, plan.boxes.tolist(), plan.flips.tolist(), 24) <= 1

    def test_how_many_there_are(self) -> None:
        assert len(DeviceImages(stored([(2, 3), (4, 5)]), CPU)) == 2

    def test_autocast_does_not_round_them(self) -> None:
        store = stored([(40, 60)] * 3)
        boxes, flips = [box_of((40, 60), (0.1, 0.2, 0.8, 0.9))] * 3, [False, True, False]
        with torch.autocast("cpu", torch.bfloat16):
            assert difference(store, boxes, flips, 24) <= 1
