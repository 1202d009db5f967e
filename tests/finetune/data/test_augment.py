"""Random crops and flips: the geometry of torchvision's, drawn from (seed, epoch, sample) alone."""

from __future__ import annotations

import functools
import math
import operator

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from finetune.config.experiment import Recipe
from finetune.data.augment import Plan, crop, plan_epoch
from finetune.data.store import StoredImages

STANDARD = Recipe()


def sizes(n: int, height: int = 300, width: int = 400) -> np.ndarray:
    return np.tile(np.array([[height, width]]), (n, 1))


def store_of(n: int, height: int = 20, width: int = 30) -> StoredImages:
    pixels = np.random.default_rng(0).integers(0, 256, n * height * width * 3, dtype=np.uint8)
    return StoredImages(pixels, sizes(n, height, width))


def geometry(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    w, h = (boxes[:, 2] - boxes[:, 0]).astype(float), (boxes[:, 3] - boxes[:, 1]).astype(float)
    return w * h, w / h


class TestBoxes:
    @given(
        height=st.integers(1, 600),
        width=st.integers(1, 600),
        area=st.floats(0.01, 1),
        seed=st.integers(0, 99),
    )
    def test_inside_the_image_and_within_the_ranges(
        self, height: int, width: int, area: float, seed: int
    ) -> None:
        boxes = plan_epoch(seed, 1, sizes(40, height, width), Recipe(crop_area_min=area)).boxes
        assert boxes.min() >= 0
        assert (boxes[:, [0, 2]] <= width).all()
        assert (boxes[:, [1, 3]] <= height).all()
        areas, aspects = geometry(boxes)
        assert (areas > 0).all()
        assert (areas <= height * width * 1.0001).all()
        if 3 / 4 <= width / height <= 4 / 3:
            assert (areas >= area * height * width * 0.999).all()
        assert (aspects >= 0.749).all()
        assert (aspects <= 1.334).all()

    def test_areas_and_aspects_are_distributed_as_torchvisions(self) -> None:
        n, height, width = 4000, 300, 400
        areas, aspects = geometry(plan_epoch(0, 1, sizes(n, height, width), STANDARD).boxes)
        torch.manual_seed(0)
        image = torch.empty(3, height, width)
        theirs = [RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(n)]
        top, left, h, w = (np.array(v, dtype=float) for v in zip(*theirs, strict=True))
        ours = plan_epoch(0, 1, sizes(n, height, width), STANDARD).boxes.astype(float)
        pairs = {
            "area": (areas / (height * width), h * w / (height * width)),
            "log aspect": (np.log(aspects), np.log(w / h)),
            "left": (ours[:, 0] / width, left / width),
            "top": (ours[:, 1] / height, top / height),
        }
        for name, (mine, other) in pairs.items():
            for q in (0.05, 0.25, 0.5, 0.75, 0.95):
                # The standard error of a quantile of 4,000 draws is below 0.01; both sides have one.
                assert abs(np.quantile(mine, q) - np.quantile(other, q)) < 0.035, (name, q)

    @pytest.mark.parametrize(
        ("height", "width", "expected"),
        [
            (10, 10000, (5000 - 20 / 3, 0, 5000 + 20 / 3, 10)),
            (10000, 10, (0, 5000 - 20 / 3, 10, 5000 + 20 / 3)),
        ],
    )
    def test_of_extreme_images_the_largest_central_crop(
        self, height: int, width: int, expected: tuple[float, ...]
    ) -> None:
        boxes = plan_epoch(0, 1, sizes(50, height, width), STANDARD).boxes
        np.testing.assert_allclose(boxes, np.tile(expected, (50, 1)), rtol=1e-4)

    def test_the_whole_of_a_square(self) -> None:
        boxes = plan_epoch(0, 1, sizes(50, 64, 64), Recipe(crop_area_min=1)).boxes
        np.testing.assert_allclose(boxes, np.tile([0, 0, 64, 64], (50, 1)), atol=1e-3)


class TestPlan:
    def test_order_is_a_permutation(self) -> None:
        order = plan_epoch(1, 1, sizes(500), STANDARD).order
        assert sorted(order.tolist()) == list(range(500))
        assert order.tolist() != list(range(500))

    @pytest.mark.parametrize(
        ("probability", "least", "most"), [(0.0, 0, 0), (1.0, 2000, 2000), (0.5, 900, 1100)]
    )
    def test_flips(self, probability: float, least: int, most: int) -> None:
        flips = plan_epoch(0, 1, sizes(2000), Recipe(flip_probability=probability)).flips
        assert least <= flips.sum() <= most

    def test_seed_and_epoch_change_everything(self) -> None:
        plans = [plan_epoch(s, e, sizes(100), STANDARD) for s, e in ((0, 1), (0, 2), (1, 1), (2, 0))]
        assert len({p.digest("") for p in plans}) == 4
        assert len({p.order.tobytes() for p in plans}) == 4
        assert len({p.boxes.tobytes() for p in plans}) == 4
        assert len({p.flips.tobytes() for p in plans}) == 4
        assert plans[0].digest("") == plan_epoch(0, 1, sizes(100), STANDARD).digest("")

    def test_a_sample_keeps_its_draws_whatever_follows_it(self) -> None:
        few, many = plan_epoch(3, 2, sizes(10), STANDARD), plan_epoch(3, 2, sizes(500), STANDARD)
        np.testing.assert_array_equal(few.boxes, many.boxes[:10])
        np.testing.assert_array_equal(few.flips, many.flips[:10])

    def test_digest_is_a_chain(self) -> None:
        one, two = (plan_epoch(0, epoch, sizes(5), STANDARD) for epoch in (1, 2))
        assert two.digest(one.digest("")) != two.digest("")
        assert len(one.digest("")) == 64


class TestCrop:
    image = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)

    def box(self, *values: float) -> np.ndarray:
        return np.array(values, dtype=np.float32)

    def test_as_pillow_cuts_and_resizes(self) -> None:
        found = crop(self.image, self.box(3, 5, 35, 37), False, 16)
        cut = Image.fromarray(self.image).resize((16, 16), Image.Resampling.BILINEAR, box=(3, 5, 35, 37))
        np.testing.assert_array_equal(found, np.asarray(cut))

    def test_close_to_torchvisions(self) -> None:
        smooth = np.asarray(Image.fromarray(self.image).resize((200, 160), Image.Resampling.BICUBIC))
        found = crop(smooth, self.box(20, 30, 120, 110), False, 32).astype(int)
        theirs = Image.fromarray(smooth).crop((20, 30, 120, 110)).resize((32, 32), Image.Resampling.BILINEAR)
        # torchvision cuts first; we let the filter see the neighbouring pixels at the crop's edge.
        inner = np.abs(found - np.asarray(theirs).astype(int))[2:-2, 2:-2]
        assert inner.max() <= 1

    def test_the_whole_image_at_its_own_size(self) -> None:
        np.testing.assert_array_equal(
            crop(self.image[:, :40], self.box(0, 0, 40, 40), False, 40), self.image[:, :40]
        )

    def test_flips_mirror_left_to_right(self) -> None:
        box = self.box(1.5, 2.25, 40.5, 33)
        plain, mirrored = crop(self.image, box, False, 16), crop(self.image, box, True, 16)
        np.testing.assert_array_equal(mirrored, plain[:, ::-1])
        assert (mirrored != plain).any()


class TestBatches:
    recipe = Recipe(image_size=8)

    def stream(self, batch_size: int, workers: int, first: int = 0) -> list[tuple[list[int], bytes]]:
        store = store_of(23)
        plan = plan_epoch(0, 1, store.sizes, self.recipe)
        parts = [plan.order[i : i + batch_size] for i in range(first * batch_size, 23, batch_size)]
        found = store.augmented(plan, parts, 8, workers)
        return [(i.tolist(), p.numpy().tobytes()) for i, p in found]

    def test_every_sample_once_in_the_plans_order(self) -> None:
        plan: Plan = plan_epoch(0, 1, store_of(23).sizes, self.recipe)
        found = self.stream(5, 2)
        assert [len(i) for i, _ in found] == [5, 5, 5, 5, 3]
        assert functools.reduce(operator.iadd, (i for i, _ in found), []) == plan.order.tolist()

    def test_neither_workers_nor_batch_size_change_an_image(self) -> None:
        one_by_one = self.stream(1, 1)
        for batch_size, workers in ((1, 4), (5, 1), (5, 3), (100, 2)):
            found = self.stream(batch_size, workers)
            assert functools.reduce(operator.iadd, (i for i, _ in found), []) == [i[0] for i, _ in one_by_one]
            assert b"".join(p for _, p in found) == b"".join(p for _, p in one_by_one)

    @pytest.mark.parametrize("first", [0, 1, 3, 4, 5])
    def test_starting_in_the_middle(self, first: int) -> None:
        assert self.stream(5, 2, first) == self.stream(5, 2)[first:]

    def test_images_are_cropped_and_flipped_by_plan(self) -> None:
        store = store_of(6)
        plan = plan_epoch(0, 1, store.sizes, Recipe(flip_probability=0.5))
        (index, images), *_ = store.augmented(plan, [plan.order], 8, 1)
        pixels = images.numpy()
        assert pixels.shape == (6, 8, 8, 3)
        assert pixels.dtype == np.uint8
        for i, image in zip(index, pixels, strict=True):
            np.testing.assert_array_equal(image, crop(store.image(i), plan.boxes[i], bool(plan.flips[i]), 8))
        assert len({math.prod(p.shape) for p in pixels}) == 1
