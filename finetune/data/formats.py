"""Image formats: which are read, by suffix, and what is said of files in the others."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError, features

from finetune.errors import counted, listed

READ = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".bmp": "BMP", ".gif": "GIF",
    ".ppm": "PPM", ".pgm": "PPM", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WebP",
}  # fmt: skip
"""Formats that every Pillow reads, by suffix: those of torchvision's ImageFolder, GIF and .jfif."""

SOMETIMES_READ = {".avif": "AVIF", ".heic": "HEIC", ".heif": "HEIC", ".hif": "HEIC"}
"""Formats that are read if Pillow was built with AVIF, or if pillow-heif is installed."""

NOT_READ = {
    ".jxl": "JPEG XL", ".svg": "SVG", ".exr": "OpenEXR", ".dcm": "DICOM", ".dng": "raw", ".cr2": "raw",
    ".cr3": "raw", ".nef": "raw", ".arw": "raw", ".orf": "raw", ".raf": "raw", ".rw2": "raw",
}  # fmt: skip
"""Formats of pictures that people have in their folders and that are never read; of some raw files, Pillow
would read a thumbnail."""

PICTURES = READ | SOMETIMES_READ | NOT_READ

HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
AVIF_BRANDS = (b"avif", b"avis")
"""Major brands in the first box of a file (ISO/IEC 23008-12, Annex B; AV1 Image File Format 1.1)."""


def format_of(path: Path) -> str | None:
    """The format of a picture by its suffix, whether or not it is read; None for other and hidden files."""
    return None if path.name.startswith(".") else PICTURES.get(path.suffix.lower())


def remedy(name: str) -> str | None:
    """What makes files of a format readable, as an order; None if they are read."""
    if name == "HEIC":
        return None if _heif_file() else 'pip install "finetune[heic]"'
    if name == "AVIF":
        return None if features.check("avif") else "install a Pillow with AVIF (pip install -U pillow)"
    return "convert to JPEG or PNG" if name in NOT_READ.values() else None


def is_read(path: Path) -> bool:
    """Whether a file is an image, by its suffix, in a format that is read here."""
    name = format_of(path)
    return name is not None and remedy(name) is None


def why_not_read(path: Path) -> str:
    """Why a file in a folder is no image of a data set."""
    if path.name.startswith("."):
        return "hidden"
    name = format_of(path)
    if name is None:
        return f"not an image: its suffix is none of {' '.join(READ | SOMETIMES_READ)}"
    return _refusal(name)


def _refusal(name: str) -> str:
    return f"{name} files are not read: {remedy(name)}"


def skipped_lines(paths: Iterable[Path]) -> list[str]:
    """Sentences on the pictures among some files that are not read, by format, the most frequent first."""
    formats = Counter(name for path in paths if (name := format_of(path)) and remedy(name))
    return [f"{counted(n, f'{name} file')} skipped: {remedy(name)}." for name, n in formats.most_common()]


def excluded_lines(excluded: Iterable[tuple[str, str]]) -> list[str]:
    """Sentences on the files of an image folder that are not used, given as paths and reasons."""
    files = [(Path(path), reason) for path, reason in excluded]
    skipped = {path for path, reason in files if format_of(path) and reason == why_not_read(path)}
    others = Counter(
        "hidden" if path.name.startswith(".") else path.suffix.lower() or "without suffix"
        for path, _ in files
        if path not in skipped
    )
    lines = skipped_lines(skipped)
    if others:
        kinds = listed([f"{n:,} {kind}" for kind, n in others.most_common()])
        lines.append(f"{counted(others.total(), 'file')} excluded: not an image of a class ({kinds}).")
    return lines


def open_picture(path: Path) -> Image.Image:
    """Open an image file whatever its name says; its header is read, its pixels are not yet.

    pillow-heif is called, not registered with Pillow: plugins are the whole process's.

    Raises:
        OSError, ValueError: it is damaged, or in a format that is not read.
    """
    raw = NOT_READ.get(path.suffix.lower())
    if raw is not None:
        raise ValueError(_refusal(raw))
    try:
        return Image.open(path)
    except UnidentifiedImageError:
        name = _by_brand(path)
        if name is None or (name == "AVIF" and remedy(name) is None):
            raise
    if remedy(name) is not None:
        raise ValueError(_refusal(name))
    opened: Image.Image = _heif_file()(path)
    return opened


def load_pixels(image: Image.Image) -> None:
    """Decode an open image.

    Raises:
        OSError, ValueError, SyntaxError, EOFError: it is damaged. libheif has a RuntimeError for some damage,
            which elsewhere means that the program is at fault.
    """
    try:
        image.load()
    except RuntimeError as error:
        if image.format != "HEIF":
            raise
        raise ValueError(str(error)) from error


def _by_brand(path: Path) -> str | None:
    """Whether the first bytes of a file call it HEIC or AVIF."""
    with path.open("rb") as file:
        start = file.read(12)
    if start[4:8] != b"ftyp":
        return None
    return "HEIC" if start[8:] in HEIC_BRANDS else "AVIF" if start[8:] in AVIF_BRANDS else None


@functools.cache
def _heif_file() -> Any:
    """pillow-heif's class for image files; None if it is not installed."""
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        return None
    return HeifImageFile
