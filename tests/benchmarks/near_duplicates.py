# ruff: noqa: T201
"""How well perceptual hashes find near-duplicates: recall on made copies, and the closest real pairs.

`python -m tests.benchmarks.near_duplicates FOLDER OUT` copies some photos of a folder in ways that people
copy photos, prints which share of the copies is found at several thresholds, and how many pairs of other
photos would be found too; OUT.png shows the closest pairs, which somebody must look at.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from finetune.data.perceptual import MAX_DISTANCE, Hashes, _tiles, nearest, perceptual_hash
from finetune.system.host import cores

THRESHOLDS = (12, 24, 30, 36, 42, 48, 60)
SUFFIXES = (".jpg", ".jpeg", ".png")


def recoded(image: Image.Image) -> Image.Image:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=50)
    return Image.open(io.BytesIO(content.getvalue())).convert("RGB")


def half(image: Image.Image) -> Image.Image:
    size = max(1, image.width // 2), max(1, image.height // 2)
    return image.resize(size, Image.Resampling.LANCZOS)


def brighter(image: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(1.3)


def darker(image: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(0.7)


def cut(share: float, random: np.random.Generator | None = None) -> Callable[[Image.Image], Image.Image]:
    """Cut that share of width and height away: around the center, or wherever `random` says."""

    def change(image: Image.Image) -> Image.Image:
        width, height = (round(side * (1 - share)) for side in image.size)
        x, y = (image.width - width) / 2, (image.height - height) / 2
        if random is not None:
            x, y = random.uniform(0, 2 * x), random.uniform(0, 2 * y)
        return image.crop((round(x), round(y), round(x) + width, round(y) + height))

    return change


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half the size": half,
    "JPEG, quality 50": recoded,
    "mirrored": ImageOps.mirror,
    "brightness x 1.3": brighter,
    "brightness x 0.7": darker,
    "half, mirrored, x 1.3, JPEG 50": lambda image: recoded(ImageOps.mirror(brighter(half(image)))),
    "5% cut off, centered": cut(0.05),
    "5% cut off, anywhere": cut(0.05, np.random.default_rng(0)),
    "10% cut off, centered": cut(0.1),
}


def closest(hashes: Hashes, n: int) -> list[tuple[int, int, int]]:
    """Distance and numbers of the n closest pairs of different images."""
    found: list[tuple[int, int, int]] = []
    for row, column, distances, _ in _tiles(hashes, hashes, upper=True):
        first, second = np.indices(distances.shape)
        distances = torch.where(
            torch.from_numpy(first + row < second + column), distances, torch.tensor(np.inf)
        )
        best = distances.flatten().topk(min(n, distances.numel()), largest=False)
        for distance, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            i, j = divmod(index, distances.shape[1])
            found.append((int(min(distance, 999)), i + row, j + column))
        found = sorted(found)[:n]
    return found


def montage(paths: Sequence[Path], pairs: Sequence[tuple[int, int, int]], out: Path) -> None:
    """The pairs side by side, with their distances."""
    side, columns = 110, 8
    rows = -(-len(pairs) // columns)
    sheet = Image.new("RGB", (columns * (2 * side + 14), rows * (side + 18)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (distance, *both) in enumerate(pairs):
        x, y = number % columns * (2 * side + 14), number // columns * (side + 18)
        draw.text((x, y), str(distance), fill="black")
        for place, index in enumerate(both):
            small = ImageOps.contain(Image.open(paths[index]).convert("RGB"), (side, side))
            sheet.paste(small, (x + place * (side + 2), y + 14))
    sheet.save(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path, help="name of the picture, without .png")
    parser.add_argument("--copied", type=int, default=200, help="photos that are copied")
    parser.add_argument("--shown", type=int, default=48, help="pairs in the picture")
    args = parser.parse_args()
    torch.set_num_threads(cores())
    paths = sorted(path for path in args.folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    chosen = np.random.default_rng(0).choice(len(paths), min(args.copied, len(paths)), replace=False)
    chosen = set(chosen.tolist())
    hashes: list[np.ndarray] = []
    copies: dict[str, list[np.ndarray]] = {name: [] for name in COPIES}
    for number, path in enumerate(paths):
        with Image.open(path) as file:
            image = file.convert("RGB")
        hashes.append(perceptual_hash(image))
        if number in chosen:
            for name, change in COPIES.items():
                copies[name].append(perceptual_hash(change(image)))
    every, originals = np.stack(hashes), np.stack([hashes[i] for i in sorted(chosen)])
    print(f"{len(paths):,} photos, {len(chosen)} of them copied; found at a distance of at most")
    print(f"{'':32}" + "".join(f"{threshold:>6}" for threshold in THRESHOLDS))
    for name, made in copies.items():
        pairs = zip(originals[:, None], np.stack(made)[:, None], strict=True)
        distances = np.array([nearest(original, copy)[1][0] for original, copy in pairs])
        print(f"{name:32}" + "".join(f"{(distances <= t).mean():>6.0%}" for t in THRESHOLDS))
    pairs = closest(every, 500)
    found = np.array([distance for distance, *_ in pairs])
    print(f"{'pairs of photos in the folder':32}" + "".join(f"{(found <= t).sum():>6}" for t in THRESHOLDS))
    montage(paths, pairs[: args.shown], args.out.with_suffix(".png"))
    print(f"The {args.shown} closest pairs, up to {pairs[args.shown - 1][0]}: {args.out.with_suffix('.png')}")
    print(f"The product uses {MAX_DISTANCE}.")


if __name__ == "__main__":
    main()
