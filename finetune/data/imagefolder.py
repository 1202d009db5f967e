"""Image folders: one subfolder per class, at the top level or inside one folder per split.

The visible subfolders of the root decide which of the two layouts it has; case does not matter:

* None is named after a split (`SPLIT_FOLDERS`): they are the classes.
* All that contain images are named after splits: they are the splits, and their subfolders are the classes.
* One is named after a split but has no subfolders, and others contain images too: they are the classes. The
  data may be about vehicles, with the classes `train`, `bus` and `car`.
* Anything else mixes splits with classes and is refused.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from finetune.data.formats import format_of, is_read, skipped_lines, why_not_read
from finetune.errors import DataError, listed
from grader.submission.predictions import CONTROL

SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""Folder names of each split, in lower case."""


class ImageFile(NamedTuple):
    """One image: its path below the root, the index of its class, its path, and its split, if any."""

    id: str
    label: int
    path: Path
    split: str | None


class ImageFolder(NamedTuple):
    """The classes and images of a folder, and (path, reason) for each other file."""

    classes: list[str]
    images: list[ImageFile]
    excluded: list[tuple[str, str]]


def _is_ignored(name: str) -> bool:
    """Whether a folder holds no images of the user's: a hidden one, or what macOS adds to zip files."""
    return name.startswith(".") or name == "__MACOSX"


def find_images(root: Path) -> ImageFolder:
    """List the images of a folder without opening any.

    Raises:
        DataError: the folder does not exist or has neither layout.
        OSError: a folder cannot be listed.
    """
    if not root.is_dir():
        raise DataError(
            f"The images must be in an existing folder, but {root} is none; check the path "
            "(--dataset), or put the folder back where the run had it."
        )
    folders = _split_folders(root) or {None: root}
    first = next(iter(folders.values()))
    classes = [folder.name for folder in _subfolders(first)]
    if len(classes) < 2:
        raise DataError(
            f"An image folder must contain at least two class folders, but {first} contains {len(classes)} "
            f"({listed(classes) or 'none'}); give the folder whose subfolders are the classes."
        )
    found = ImageFolder(classes, [], [])
    for split, folder in folders.items():
        _require_same_classes(classes, folder)
        _add_images(found, root, folder, split)
    _require_plain_names(found.images)
    return found


def _split_folders(root: Path) -> dict[str | None, Path]:
    """The folders of the splits, `train` first; empty if the subfolders are the classes."""
    splits = {split: [f for f in _subfolders(root) if _named(f, split)] for split in SPLIT_FOLDERS}
    named = [folder for folders in splits.values() for folder in folders]
    if not named:
        return {}
    others = [f for f in _subfolders(root) if f not in named and any(map(format_of, _files(f)))]
    if others and len(named) == 1 and not _subfolders(named[0]):
        return {}
    if others:
        raise DataError(
            f"An image folder must contain either split folders or class folders, but {root} contains both: "
            f"{_names(named)} (split) and {_names(others)} (class); move the class folders into the split "
            "folders, or rename the folders that are not splits."
        )
    for split, folders in splits.items():
        if len(folders) > 1:
            raise DataError(
                f"An image folder must contain one {split} folder, but {root} contains {len(folders)}: "
                f"{_names(folders)}; merge them or rename all but one."
            )
    if not splits["train"]:
        raise DataError(
            f"An image folder with split folders must contain train/, but {root} contains only "
            f"{_names(named)}; add train/, or give the folder whose subfolders are the classes."
        )
    return {split: folders[0] for split, folders in splits.items() if folders}


def _named(folder: Path, split: str) -> bool:
    return folder.name.casefold() in SPLIT_FOLDERS[split]


def _names(folders: list[Path]) -> str:
    return listed(sorted(folder.name for folder in folders))


def _subfolders(folder: Path) -> list[Path]:
    paths = sorted((p for p in folder.iterdir() if p.is_dir() and not _is_ignored(p.name)), key=_name)
    for path in paths:
        _require_unicode(path)
    return paths


def _name(path: Path) -> str:
    return path.name


def _require_same_classes(classes: list[str], folder: Path) -> None:
    names = {path.name for path in _subfolders(folder)}
    extra, missing = sorted(names - set(classes)), sorted(set(classes) - names)
    if extra or missing:
        differences = [f"{what}: {listed(n)}" for what, n in (("extra", extra), ("missing", missing)) if n]
        raise DataError(
            f"All splits must have the same class folders, but {folder} differs from the training folder "
            f"({'; '.join(differences)}); add or remove class folders."
        )


def _add_images(found: ImageFolder, root: Path, folder: Path, split: str | None) -> None:
    for path in sorted((p for p in folder.iterdir() if p.is_file()), key=_name):
        _require_unicode(path)
        found.excluded.append((path.relative_to(root).as_posix(), "not in a class folder"))
    for label, name in enumerate(found.classes):
        n_before = len(found.images)
        paths = _files(folder / name)
        for path in paths:
            relative = path.relative_to(root).as_posix()
            if relative[0] in "=+-@":
                relative = f"./{relative}"  # a spreadsheet would take it for a formula
            if path.exists() and not path.is_file():
                found.excluded.append((relative, "not a regular file"))  # reading a named pipe never ends
            elif is_read(path):
                found.images.append(ImageFile(relative, label, path, split))
            else:
                found.excluded.append((relative, why_not_read(path)))
        if len(found.images) == n_before:
            unread = "".join(f" ({line.rstrip('.')})" for line in skipped_lines(paths))
            raise DataError(
                f"Every class folder must contain an image, but {folder / name} contains none{unread}; add "
                "images or remove the folder."
            )


def _files(folder: Path) -> list[Path]:
    """All files below a folder, except in hidden and linked folders: links may form a loop."""
    paths = []
    for where, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = sorted(f for f in folders if not _is_ignored(f))
        paths += [Path(where, name) for name in sorted(names)]
    for path in paths:
        _require_unicode(path)
    return paths


def _raise(error: OSError) -> None:
    """Do not skip a folder that cannot be listed: it may contain images."""
    raise error


def _require_plain_names(images: list[ImageFile]) -> None:
    """Before any image is decoded, refuse names that the grader would not accept in a prediction file."""
    for image in images:
        if CONTROL.search(image.id):
            raise DataError(
                "Names of images and their folders must not contain line breaks or control characters, but "
                f"{image.id!r} does; rename the file or its folder."
            )


def _require_unicode(path: Path) -> None:
    """Results and fingerprints contain names as UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"Names must be valid UTF-8, but {str(path)!r} is not; rename the file or folder."
        ) from error
