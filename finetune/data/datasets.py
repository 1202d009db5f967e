"""Where images come from: a data set is a list of samples and class names; nothing is decoded here."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torchvision.datasets import Flowers102

from finetune.errors import DataError, listed
from finetune.system.download import downloading
from finetune.system.host import check_writable

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""File names that hold an image: torchvision's ImageFolder takes the same."""

FLOWERS102_BYTES = 700_000_000
"""The archive (345 MB) and the images unpacked from it, rounded up."""

FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
"""Names under which a divided image folder keeps its splits."""


@dataclass(frozen=True)
class Sample:
    """One labelled image, not yet decoded.

    Args:
        id: unique in the data set: a path below its root, or a number.
        label: index into the data set's classes.
        content: the image's file, or grey values [height x width] uint8.
        split: `train`, `val` or `test` where the data set comes divided.
    """

    id: str
    label: int
    content: Path | npt.NDArray[np.uint8]
    split: str | None = None

    def read(self) -> bytes:
        """The bytes that identify the image: its file's, or its grey values'."""
        return self.content.read_bytes() if isinstance(self.content, Path) else self.content.tobytes()


@dataclass(frozen=True)
class Dataset:
    """Samples sorted by id, their classes, and what was left out or decided on the way.

    Args:
        name: `flowers102`, `digits` or `imagefolder`.
        classes: class names; a label is an index into them.
        samples: sorted by id.
        excluded: (path, reason) for each file that is no sample.
        notes: decisions taken on the user's behalf, in sentences.
        download_seconds: time spent fetching it.
    """

    name: str
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    excluded: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    download_seconds: float = field(default=0.0, compare=False)

    def without(self, bad: Mapping[str, str]) -> Dataset:
        """The data set less the samples whose ids are given with the reasons to leave them out."""
        note = f"Images left out, since they cannot be read: {len(bad)}."
        return dataclasses.replace(
            self,
            samples=tuple(s for s in self.samples if s.id not in bad),
            excluded=tuple(sorted([*self.excluded, *bad.items()])),
            notes=(*self.notes, note),
        )

    @property
    def divided(self) -> bool:
        """Whether the data set comes with splits of its own."""
        return self.samples[0].split is not None


def load_dataset(dataset: str, data_root: Path) -> Dataset:
    """Find the images of `flowers102`, `digits` or `imagefolder:PATH`.

    Raises:
        DataError: the folder or the download is missing or is not laid out as the data set requires.
    """
    if dataset == "digits":
        return _digits()
    if dataset == "flowers102":
        return _flowers102(data_root)
    root = Path(dataset.removeprefix("imagefolder:"))
    try:
        return _imagefolder(root.expanduser())
    except (OSError, RuntimeError) as error:  # expanduser() raises RuntimeError for a user who is not there
        raise DataError(
            f"The image folder {root} cannot be listed ({error}); check path and permissions."
        ) from error


def _digits() -> Dataset:
    """1,797 handwritten digits, 8 x 8 pixels, 16 grey levels (Alpaydin and Kaynak 1998, UCI)."""
    import sklearn.datasets  # takes a second and 60 MB, and no other data set needs it

    digits = sklearn.datasets.load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return Dataset(
        name="digits",
        classes=tuple(str(name) for name in digits.target_names),
        samples=tuple(
            Sample(f"digit-{i:04d}", int(label), grey[i]) for i, label in enumerate(digits.target.tolist())
        ),
    )


def _flowers102(root: Path) -> Dataset:
    """8,189 photos of 102 flowers, officially 1,020 / 1,020 / 6,149 (Nilsback and Zisserman 2008)."""
    if not (root / "flowers-102" / "jpg").is_dir():
        check_writable(root, "data root", FLOWERS102_BYTES)
    started = time.perf_counter()
    with downloading(
        f"Oxford Flowers-102, looked for in {root / 'flowers-102'},",
        f"Try again with the internet, copy the folder flowers-102 to {root}, "
        "name another place with --data-root, or use --dataset digits, which needs no download.",
        DataError,
    ):
        parts = {split: Flowers102(str(root), split=split, download=True) for split in FOLDERS}
    seconds = time.perf_counter() - started
    samples = [
        # torchvision publishes the images of Flowers102 but not their files; these two lists hold them.
        Sample(Path(path).stem, int(label), Path(path), split)
        for split, part in parts.items()
        for path, label in zip(part._image_files, part._labels, strict=True)
    ]
    return Dataset(
        name="flowers102",
        classes=tuple(Flowers102.classes),
        samples=tuple(sorted(samples, key=lambda s: s.id)),
        download_seconds=seconds,
    )


def _imagefolder(root: Path) -> Dataset:
    """A folder of class folders, or one with train/, val/ and test/ that hold the class folders."""
    if not root.is_dir():
        raise DataError(f"imagefolder:PATH must name a folder, but {root} is none; check the path.")
    found = {split: _split_folder(root, names) for split, names in FOLDERS.items()}
    excluded: list[tuple[str, str]] = []
    if found["train"] is None:
        _require_classes(root)
        samples, classes = _class_folders(root, root, None, excluded)
    else:
        samples, classes = _class_folders(root, found["train"], "train", excluded)
        for split in ("val", "test"):
            folder = found[split]
            if folder is None:
                continue
            more, others = _class_folders(root, folder, split, excluded, classes)
            _require_same_classes(classes, others, folder)
            samples += more
    if len(classes) < 2:
        raise DataError(
            f"An image folder must hold at least two class folders, but {found['train'] or root} holds "
            f"{len(classes)} ({listed(classes) or 'none'}); give the folder whose subfolders are the classes."
        )
    notes = [f"Files left out, since they are no images of a class: {len(excluded)}."] if excluded else []
    return Dataset(
        name="imagefolder",
        classes=tuple(classes),
        samples=tuple(sorted(samples, key=lambda s: s.id)),
        excluded=tuple(sorted(excluded)),
        notes=tuple(notes),
    )


def _split_folder(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _require_classes(root: Path) -> None:
    """A divided folder that lacks train/ must not pass for classes named val and test."""
    held_out = {*FOLDERS["val"], *FOLDERS["test"]}
    names = {p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")}
    if names and names <= held_out:
        raise DataError(
            f"A divided image folder must hold train/, but {root} holds only {listed(sorted(names))}; "
            "add train/ or give the folder whose subfolders are the classes."
        )


def _class_folders(
    root: Path,
    folder: Path,
    split: str | None,
    excluded: list[tuple[str, str]],
    classes: list[str] | None = None,
) -> tuple[list[Sample], list[str]]:
    entries = sorted(folder.iterdir(), key=lambda p: p.name)
    excluded += [(p.relative_to(root).as_posix(), "outside any class folder") for p in entries if p.is_file()]
    for path in entries:
        _require_unicode(path)
    names = [p.name for p in entries if p.is_dir() and not p.name.startswith(".")]
    index = {name: label for label, name in enumerate(classes or names)}
    samples = []
    for name in names:
        images = []
        for path in _files(folder / name):
            relative = path.relative_to(root).as_posix()
            if relative[0] in "=+-@":
                relative = f"./{relative}"  # else a spreadsheet would take it for a formula
            if path.exists() and not path.is_file():
                excluded.append((relative, "no regular file"))  # reading a named pipe would never end
            elif path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
                images.append(Sample(relative, index.get(name, -1), path, split))
            else:
                endings = " ".join(IMAGE_SUFFIXES)
                excluded.append(
                    (relative, f"no image: its name begins with a dot or ends in none of {endings}")
                )
        if not images:
            raise DataError(
                f"A class folder must hold at least one image, but {folder / name} holds none; "
                "add images or remove the folder."
            )
        samples += images
    return samples, names


def _files(folder: Path) -> list[Path]:
    paths = []
    for where, folders, names in os.walk(folder, onerror=_give_up):  # follows no links: no loop can trap it
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        paths += [Path(where, name) for name in sorted(names)]
    for path in paths:
        _require_unicode(path)
    return paths


def _give_up(error: OSError) -> None:
    """A folder that cannot be listed may hold anything: its images must not be missing unnoticed."""
    raise error


def _require_unicode(path: Path) -> None:
    """Names go into results and fingerprints, which are UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        shown = ascii(str(path))
        raise DataError(
            f"Names must be valid UTF-8, but {shown} is not; rename the file or folder."
        ) from error


def _require_same_classes(classes: list[str], others: list[str], folder: Path) -> None:
    extra = sorted(set(others) - set(classes))
    missing = sorted(set(classes) - set(others))
    if extra or missing:
        parts = [f"only there: {listed(extra)}"] * bool(extra) + [f"missing there: {listed(missing)}"] * bool(
            missing
        )
        raise DataError(
            f"The classes in {folder} must be those of the training folder, but they are not "
            f"({'; '.join(parts)}); make the class folders the same."
        )
