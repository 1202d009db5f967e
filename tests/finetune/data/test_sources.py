"""A selection of images: the same as a source of these images alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from finetune.config.experiment import Recipe
from finetune.data.augment import plan_epoch
from finetune.data.device import DeviceImages
from finetune.data.sources import ImageSource, Selection
from finetune.data.store import StoredImages
from tests.builders.images import stored

INDEX = np.array([5, 1, 4])


def pixels(side: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (6, side, side, 3), dtype=torch.uint8, generator=generator)


@pytest.fixture(params=["stored", "device"])
def whole(request: pytest.FixtureRequest) -> ImageSource:
    images = stored(pixels())
    return images if request.param == "stored" else DeviceImages(images, torch.device("cpu"))


class TestSelection:
    def test_batches_are_the_images(self, whole: ImageSource) -> None:
        chosen = Selection(whole, INDEX, workers=2)
        assert len(chosen) == 3
        batches = list(chosen.batches(2))
        assert [len(batch) for batch in batches] == [2, 1]
        assert torch.equal(torch.cat(batches), pixels()[INDEX])
        assert torch.equal(torch.cat(list(chosen.batches(2, slice(1, 3)))), pixels()[INDEX[1:]])

    def test_augmented_as_if_it_were_all(self) -> None:
        alone = stored(pixels()[INDEX])
        chosen = Selection(stored(pixels()), INDEX, workers=1)
        plan = plan_epoch(0, 1, chosen.sizes, Recipe(image_size=8))
        batches = [plan.order[:2], plan.order[2:]]
        for (one, ours), (two, theirs) in zip(
            chosen.augmented(plan, batches, 8, 1), alone.augmented(plan, batches, 8, 1), strict=True
        ):
            assert one.tolist() == two.tolist()
            assert torch.equal(ours, theirs)

    def test_sizes_of_different_images(self) -> None:
        sizes = np.array([[2, 3], [4, 5], [6, 7]])
        whole = StoredImages(np.zeros((sizes[:, 0] * sizes[:, 1] * 3).sum(), dtype=np.uint8), sizes)
        assert Selection(whole, np.array([2, 0]), 1).sizes.tolist() == [[6, 7], [2, 3]]
