"""Decode one image file to upright RGB pixels, whatever its format."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from finetune.data.datasets import Sample
from finetune.data.formats import load_pixels, open_picture

UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)
"""Raised by Pillow's decoders for damaged files, and by reading files that no longer exist."""

EXIF_ORIENTATION = 0x0112
SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""

SIXTEEN_BITS = ("I", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes for grayscale images of more than 8 bits; in practice the files have 16."""

MOST_IN_SIXTEEN_BITS = (1 << 16) - 1


def open_image(sample: Sample) -> Image.Image:
    """Decode one image as RGB: upright, transparency on white, 16 bits scaled to 8; of several, the first.

    Raises:
        UNREADABLE: the file is damaged, or the range of its pixel values is unknown.
    """
    if not isinstance(sample.content, Path):
        return Image.fromarray(sample.content).convert("RGB")
    with open_picture(sample.content) as image:
        load_pixels(image)
        upright = ImageOps.exif_transpose(image)
        if upright.mode == "F":
            raise ValueError("floating-point pixels of unknown range")
        if upright.mode in SIXTEEN_BITS:
            gray = np.asarray(upright).astype(np.int64)
            if gray.size and not 0 <= gray.min() <= gray.max() <= MOST_IN_SIXTEEN_BITS:
                raise ValueError("whole-number pixels of unknown range")
            return Image.fromarray((gray >> 8).astype(np.uint8)).convert("RGB")
        if upright.has_transparency_data:
            opaque = upright.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
        return upright.convert("RGB")


def image_size(sample: Sample) -> tuple[int, int]:
    """Height and width of the upright image; only the header is read.

    Raises:
        UNREADABLE: the header is damaged.
    """
    if not isinstance(sample.content, Path):
        height, width = sample.content.shape
        return height, width
    with open_picture(sample.content) as image:
        sideways = image.getexif().get(EXIF_ORIENTATION) in SIDEWAYS
        width, height = image.size
        if isinstance(image, TiffImageFile):  # newer versions of Pillow turn its size themselves
            width, height = image.tag_v2[IMAGEWIDTH], image.tag_v2[IMAGELENGTH]
        return (width, height) if sideways else (height, width)


def reason(error: Exception) -> str:
    """Why an image could not be read, without the path."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
