"""What a perceptual hash tells apart, and what it does not."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from finetune.data import perceptual
from finetune.data.perceptual import (
    BITS,
    MAX_DISTANCE,
    clusters,
    comparable,
    nearest,
    perceptual_hash,
)

Change = Callable[[Image.Image], Image.Image]


def scene(seed: int, side: int = 96) -> Image.Image:
    """A smooth picture, like a photo out of focus."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    return coarse.resize((side, side), Image.Resampling.BICUBIC)


def recoded(image: Image.Image) -> Image.Image:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=50)
    return Image.open(io.BytesIO(content.getvalue())).convert("RGB")


CHANGES: dict[str, Change] = {
    "half the size": lambda image: image.resize((48, 48), Image.Resampling.LANCZOS),
    "JPEG": recoded,
    "mirrored": ImageOps.mirror,
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "gray": lambda image: image.convert("L").convert("RGB"),
    "another shape": lambda image: image.resize((120, 90)),
}


def hashes(*images: Image.Image) -> np.ndarray:
    return np.stack([perceptual_hash(image) for image in images])


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_copies_are_near(change: Change) -> None:
    images = [scene(seed) for seed in range(10)]
    copies = hashes(*map(change, images))
    index, distance, mirrored = nearest(hashes(*images), copies)
    assert index.tolist() == list(range(10))
    assert (distance <= MAX_DISTANCE).all()
    assert mirrored.tolist() == [change is ImageOps.mirror] * 10


def test_other_pictures_are_far() -> None:
    found = nearest(hashes(*map(scene, range(40))), hashes(*map(scene, range(40, 80))))
    assert found[1].min() > MAX_DISTANCE


def test_the_distance_is_the_number_of_different_signs() -> None:
    first, second = scene(0), scene(1)
    bits = [np.unpackbits(perceptual_hash(image).view(np.uint8)) for image in (first, second)]
    straight = int((bits[0] != bits[1]).sum())
    mirror = np.unpackbits(perceptual_hash(ImageOps.mirror(second)).view(np.uint8))
    crossed = int((bits[0] != mirror).sum())
    _, distance, mirrored = nearest(hashes(first), hashes(second))
    assert abs(distance[0] - min(straight, crossed)) <= 1  # a mirrored copy is resized before it is hashed
    assert mirrored[0] == (crossed < straight)


@pytest.mark.parametrize(
    "image",
    [
        scene(0, 31),
        Image.new("RGB", (200, 200), "gray"),
        scene(0).resize((300, 20)),
        Image.fromarray(np.random.default_rng(0).integers(127, 130, (64, 64, 3), dtype=np.uint8)),
    ],
    ids=["small", "uniform", "low", "noise"],
)
def test_what_cannot_be_compared_is_near_nothing(image: Image.Image) -> None:
    own = hashes(image)
    assert not comparable(own).any()
    assert nearest(own, own)[1].tolist() == [BITS // 2 + 1]
    assert len(set(clusters(np.concatenate([own, own])).tolist())) == 2


def test_comparable() -> None:
    assert comparable(hashes(scene(0), scene(1, 32))).all()


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [scene(seed) for seed in range(30)]
    first = hashes(*images, *map(ImageOps.mirror, images[:7]))
    second = hashes(*map(recoded, images[::-1]))
    whole = [values.tolist() for values in nearest(first, second)]
    groups = clusters(np.concatenate([first, second])).tolist()
    monkeypatch.setattr(perceptual, "ROWS", 4)
    monkeypatch.setattr(perceptual, "COLUMNS", 5)
    assert [values.tolist() for values in nearest(first, second)] == whole
    again = clusters(np.concatenate([first, second])).tolist()
    assert len(set(again)) == len(set(groups)) == len(set(zip(again, groups, strict=True))) == 30


def test_clusters_follow_chains() -> None:
    steps = [scene(0)]
    for _ in range(12):
        steps.append(Image.blend(steps[-1], scene(1), 0.08))
    found = clusters(hashes(*steps, scene(2)))
    assert nearest(hashes(steps[0]), hashes(steps[-1]))[1][0] > MAX_DISTANCE
    assert len(set(found[:-1].tolist())) == 1
    assert found[-1] != found[0]
