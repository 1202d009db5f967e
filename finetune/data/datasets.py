"""Data sets: a list of labelled images and the names of their classes. Nothing is decoded here."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from finetune.data.formats import excluded_lines
from finetune.data.imagefolder import find_images
from finetune.errors import DataError, counted
from finetune.system.download import downloading
from finetune.system.host import check_writable
from grader.reading.truth import FLOWERS_FOLDER

SPLIT_NAMES = ("train", "val", "test")

FLOWERS102_BYTES = 700_000_000
"""The archive (345 MB) and the images unpacked from it, rounded up."""


@dataclass(frozen=True)
class Sample:
    """One labelled image, not yet decoded.

    Args:
        id: unique in the data set: a path below its root, or a number.
        label: index into the data set's classes.
        content: the image file, or gray values [height x width] uint8.
        split: `train`, `val` or `test` if the data set has predefined splits.
    """

    id: str
    label: int
    content: Path | npt.NDArray[np.uint8]
    split: str | None = None

    def read(self) -> bytes:
        """The bytes that identify the image: its file's, or its gray values."""
        return self.content.read_bytes() if isinstance(self.content, Path) else self.content.tobytes()


@dataclass(frozen=True)
class Dataset:
    """Samples sorted by id, their classes, and the files that were excluded.

    Args:
        name: `flowers102`, `digits` or `imagefolder`.
        classes: class names; a label is an index into them.
        samples: sorted by id.
        excluded: (path, reason) for each file that is not used.
        notes: sentences for the user about what was excluded or chosen.
        download_seconds: time spent downloading it.
    """

    name: str
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    excluded: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    download_seconds: float = field(default=0.0, compare=False)

    def without(self, unreadable: Mapping[str, str]) -> Dataset:
        """The data set without unreadable samples, given as reasons by sample id."""
        return dataclasses.replace(
            self,
            samples=tuple(s for s in self.samples if s.id not in unreadable),
            excluded=tuple(sorted([*self.excluded, *unreadable.items()])),
            notes=(*self.notes, f"{counted(len(unreadable), 'unreadable image')} excluded."),
        )

    @property
    def has_splits(self) -> bool:
        """Whether the data set has predefined splits."""
        return self.samples[0].split is not None


def load_dataset(dataset: str, data_root: Path) -> Dataset:
    """List the images of `flowers102`, `digits` or `imagefolder:PATH`.

    Raises:
        DataError: the folder or the download is missing or does not have the layout of the data set.
    """
    if dataset in _NAMED:
        return _NAMED[dataset](data_root)
    root = Path(dataset.removeprefix("imagefolder:"))
    try:
        return _imagefolder(root.expanduser())
    except (OSError, RuntimeError) as error:  # expanduser() raises RuntimeError for an unknown user
        raise DataError(
            f"Cannot list the image folder {root} ({error}); check path and permissions."
        ) from error


def _digits(_root: Path) -> Dataset:
    """1,797 handwritten digits, 8 x 8 pixels, 16 gray levels (Alpaydin and Kaynak 1998, UCI)."""
    import sklearn.datasets  # takes a second and 60 MB, and no other data set needs it

    digits = sklearn.datasets.load_digits()
    gray = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return Dataset(
        name="digits",
        classes=tuple(str(name) for name in digits.target_names),
        samples=tuple(
            Sample(f"digit-{i:04d}", int(label), gray[i]) for i, label in enumerate(digits.target.tolist())
        ),
    )


def _flowers102(root: Path) -> Dataset:
    """8,189 photos of 102 flowers, officially 1,020 / 1,020 / 6,149 (Nilsback and Zisserman 2008)."""
    from torchvision.datasets import Flowers102  # takes seconds, with torch, and no other data set needs it

    folder = root / FLOWERS_FOLDER
    if not (folder / "jpg").is_dir():
        check_writable(root, "data root", FLOWERS102_BYTES)
    started = time.perf_counter()
    with downloading(
        f"Oxford Flowers-102 (not found in {folder})",
        f"Connect to the internet and try again, copy the folder {FLOWERS_FOLDER} to {root}, "
        "choose another folder with --data-root, or use --dataset digits, which needs no download.",
        DataError,
    ):
        splits = {split: Flowers102(str(root), split=split, download=True) for split in SPLIT_NAMES}
    seconds = time.perf_counter() - started
    samples = [
        # torchvision has no public attribute for the image files; these two lists have them and the labels.
        Sample(Path(path).stem, int(label), Path(path), split)
        for split, images in splits.items()
        for path, label in zip(images._image_files, images._labels, strict=True)
    ]
    return Dataset(
        name="flowers102",
        classes=tuple(Flowers102.classes),
        samples=tuple(sorted(samples, key=lambda s: s.id)),
        download_seconds=seconds,
    )


_NAMED = {"digits": _digits, "flowers102": _flowers102}


def _imagefolder(root: Path) -> Dataset:
    found = find_images(root)
    samples = (Sample(image.id, image.label, image.path, image.split) for image in found.images)
    return Dataset(
        name="imagefolder",
        classes=tuple(found.classes),
        samples=tuple(sorted(samples, key=lambda s: s.id)),
        excluded=tuple(sorted(found.excluded)),
        notes=tuple(excluded_lines(found.excluded)),
    )
