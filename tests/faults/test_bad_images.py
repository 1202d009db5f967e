"""Image files as people's folders hold them: each either decoded pixel by pixel, or told with its reason."""

from __future__ import annotations

import io
import os
import random
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.data.datasets import Sample, load_dataset
from finetune.data.decode import open_image
from finetune.data.formats import remedy
from finetune.data.prepare import prepare_images
from finetune.data.split_dataset import split_dataset
from finetune.errors import BadImagesError, DataError, counted
from tests.builders.config import tiny_command, tiny_config
from tests.builders.images import decode_evaluation, decode_training, image_tree, photo
from tests.builders.runs import RecordingReporter, results_of, run_finetune

RGB = np.random.default_rng(5).integers(0, 256, (6, 9, 3), dtype=np.uint8)
"""The upright pixels [6 x 9 x 3] that most good files below hold."""

MUTATIONS = int(os.environ.get("FAULTS_MUTATIONS", "20"))
"""Damaged files tried of each format."""


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb() -> bytes:
    """A PNG of 0.1 MB that claims and holds 20,000 x 20,000 black pixels."""
    rows = zlib.compressobj(9)
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    content = rows.compress(b"\0" * (2501 * 20_000)) + rows.flush()
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", content) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def heic() -> bytes:
    """The beginning of an HEIC file as telephones write it: brands and an empty `meta` box."""
    brands = b"ftypheic" + struct.pack(">I", 0) + b"mif1heic"
    return struct.pack(">I", 4 + len(brands)) + brands + struct.pack(">I", 12) + b"meta" + b"\0" * 4


def bad_files(folder: Path) -> dict[str, str]:
    """Write files that are no images into a folder; part of each one's reason by name."""
    whole = encoded(Image.fromarray(np.tile(RGB, (20, 20, 1))), "JPEG")
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    noise = np.random.default_rng(7).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    (folder / "truncated.png").write_bytes(encoded(Image.fromarray(noise), "PNG")[:5000])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "bomb.png").write_bytes(bomb())
    (folder / "telephone.jpg").write_bytes(heic())
    (folder / "text.png").write_text("not an image")
    (folder / "page.webp").write_text("<html>404</html>")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    (folder / "dangling.jpg").symlink_to(folder / "nowhere.jpg")
    Image.fromarray(RGB.astype(np.float32)[..., 0], "F").save(folder / "float.tif")
    return {
        "truncated.jpg": "truncated",
        "truncated.png": "truncated",
        "empty.jpg": "not an image",
        "bomb.png": "exceeds limit",
        "telephone.jpg": "HEIC files are not read" if remedy("HEIC") else "Invalid input",
        "text.png": "not an image",
        "page.webp": "not an image",
        "loop.jpg": "symbolic link",
        "dangling.jpg": "No such file",
        "float.tif": "floating-point",
    }


def test_all_bad_images_are_reported_before_training(
    tmp_path: Path, narrow_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = image_tree(tmp_path / "images", {"cat": 6, "dog": 12})
    expected = bad_files(folder / "cat")
    out = tmp_path / "run"
    more = ["--dataset", f"imagefolder:{folder}", "--variants", "a", "--subset", "100"]
    done = run_finetune(capsys, *tiny_command(out, narrow_weights, *more))
    said = done.refused()
    assert f"but {len(expected)} cannot be:" in said
    for name, reason in expected.items():
        shown = said.partition(f"cat/{name} (")[2].partition("), cat/")[0]
        assert reason in shown, (name, said)
    assert "A seed 0" not in done.out
    assert not out.exists()

    done = run_finetune(capsys, *tiny_command(out, narrow_weights, *more, "--on-bad-image", "skip"))
    assert done.code == 0, done
    assert f"{counted(len(expected), 'unreadable image')} excluded." in done.out
    record = results_of(out)["dataset"]
    excluded = {e["sample_id"]: e["reason"] for e in record["excluded"]}
    assert excluded.keys() == {f"cat/{name}" for name in expected}
    for name, reason in expected.items():
        assert reason in excluded[f"cat/{name}"]
        assert str(tmp_path) not in excluded[f"cat/{name}"]
    assert sum(s["n_samples"] for s in record["splits"].values()) == 18


def orientated() -> Iterator[tuple[str, bytes]]:
    """The same upright pixels stored in all eight EXIF orientations."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    for number in range(1, 9):
        image = Image.fromarray(RGB)
        stored = image.transpose(undo[number]) if number in undo else image
        exif = Image.Exif()
        exif[0x0112] = number
        yield f"orientation{number}.png", encoded(stored, "PNG", exif=exif)


def good_files() -> Iterator[tuple[str, bytes, np.ndarray]]:
    """Name, file and the upright RGB pixels that must come out of it."""
    image = Image.fromarray(RGB)
    for name, content in orientated():
        yield name, content, RGB
    grey = RGB[..., 0]
    yield "grey.png", encoded(Image.fromarray(grey), "PNG"), np.stack([grey] * 3, axis=2)
    wide = grey.astype(np.uint16) << 8 | 0xAB
    yield "sixteen.png", encoded(Image.fromarray(wide), "PNG"), np.stack([grey] * 3, axis=2)
    yield "sixteen.tif", encoded(Image.fromarray(wide), "TIFF"), np.stack([grey] * 3, axis=2)
    black = Image.fromarray(grey > 127)
    yield "black-and-white.png", encoded(black, "PNG"), np.stack([(grey > 127) * np.uint8(255)] * 3, axis=2)
    clear = Image.fromarray(np.dstack([RGB, np.full((6, 9), 0, np.uint8)]), "RGBA")
    yield "transparent.png", encoded(clear, "PNG"), np.full((6, 9, 3), 255, np.uint8)
    palette = Image.new("P", (9, 6), 1)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((0, 0), 0)
    shown = np.full((6, 9, 3), (40, 50, 60), np.uint8)
    shown[0, 0] = 255
    yield "palette.png", encoded(palette, "PNG", transparency=0), shown
    cmyk = np.dstack([255 - RGB, np.zeros((6, 9), np.uint8)])
    yield "cmyk.tif", encoded(Image.fromarray(cmyk, "CMYK"), "TIFF"), RGB
    frames = [Image.new("RGB", (9, 6), c) for c in ((200, 0, 0), (0, 0, 200))]
    first = np.full((6, 9, 3), (200, 0, 0), np.uint8)
    more = {"save_all": True, "append_images": frames[1:]}
    yield "animated-gif-named.png", encoded(frames[0], "GIF", **more), first
    yield "animated.webp", encoded(frames[0], "WEBP", lossless=True, **more), first
    yield "animated.png", encoded(frames[0], "PNG", **more), first
    yield "png-named.jpg", encoded(image, "PNG"), RGB
    yield "one-pixel.png", encoded(Image.fromarray(RGB[:1, :1]), "PNG"), RGB[:1, :1]
    long = np.random.default_rng(6).integers(0, 256, (10, 30_000, 3), dtype=np.uint8)
    yield "wide.png", encoded(Image.fromarray(long), "PNG"), long
    yield "tall.png", encoded(Image.fromarray(long.transpose(1, 0, 2)), "PNG"), long.transpose(1, 0, 2)


@pytest.mark.parametrize(
    ("name", "content", "pixels"), [pytest.param(*case, id=case[0]) for case in good_files()]
)
def test_good_images_pixel_by_pixel(tmp_path: Path, name: str, content: bytes, pixels: np.ndarray) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    sample = Sample(name, 0, path)
    np.testing.assert_array_equal(np.asarray(open_image(sample)), pixels)
    trained = decode_training([sample], 16, 1, lambda _: None)
    assert min(trained.image(0).shape[:2]) <= 32
    assert decode_evaluation([sample], 16, 1, lambda _: None).image(0).shape == (16, 16, 3)


def test_cmyk_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    ink = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    ink.save(path, quality=100)
    found = np.asarray(open_image(Sample("x", 0, path))).astype(int)
    assert np.abs(found - [0, 255, 255]).max() <= 3  # cyan, but for JPEG's rounding


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "PPM"])
def test_damaged_files_are_decoded_or_reported(tmp_path: Path, kind: str) -> None:
    rng = random.Random(kind)  # noqa: S311 - damage, not secrets
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif} if kind in ("JPEG", "PNG", "TIFF", "WEBP") else {}
    whole = encoded(Image.fromarray(np.tile(RGB, (4, 4, 1))), kind, **options)
    samples = []
    for number in range(MUTATIONS):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 8)):
            position = rng.randrange(min(len(content), rng.choice([40, 200, 10_000])))
            content[position] = rng.randrange(256)
        if rng.random() < 0.2:
            del content[rng.randrange(len(content)) :]
        path = tmp_path / f"{number}.img"
        path.write_bytes(content)
        samples.append(Sample(str(number), 0, path))
    told = 0
    for decode in (decode_training, decode_evaluation):
        for sample in samples:
            reasons: dict[str, str] = {}
            try:
                assert len(decode([sample], 16, 1, lambda _: None)) == 1
            except BadImagesError as error:
                reasons = error.reasons
            assert all(name == sample.id and reason for name, reason in reasons.items())
            told += len(reasons)
    assert 0 < told < 2 * MUTATIONS


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def nobody() -> Iterator[None]:
    """Be a user who may not read everything."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        yield
        os.seteuid(0)
    else:
        yield


@pytest.mark.parametrize(("hidden", "said"), [("cat/001.png", "cat/001.png (Permission denied)")])
def test_unreadable_image(public: Path, hidden: str, said: str, request: pytest.FixtureRequest) -> None:

    image_tree(public / "images", {"cat": 5, "dog": 5})
    (public / "images" / hidden).chmod(0)
    request.getfixturevalue("nobody")
    config = tiny_config(dataset=f"imagefolder:{public / 'images'}", subset=None)

    def look() -> None:
        prepare_images(config, split_dataset(config), RecordingReporter())

    with pytest.raises(DataError) as refused:
        look()
    assert said in str(refused.value)


@pytest.mark.parametrize("hidden", ["cat", "cat/more", "."])
def test_unreadable_folder(public: Path, hidden: str, request: pytest.FixtureRequest) -> None:

    image_tree(public / "images", {"cat": 5, "dog": 5})
    photo(public / "images" / "cat" / "more" / "x.png", 99)
    (public / "images" / hidden).chmod(0)
    try:
        request.getfixturevalue("nobody")
        with pytest.raises(DataError, match=r"^Cannot list the image folder .* \(.*Permission denied"):
            load_dataset(f"imagefolder:{public / 'images'}", public)
    finally:
        os.seteuid(os.getuid())
        (public / "images" / hidden).chmod(0o755)


def test_loop_of_folders(tmp_path: Path, narrow_weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = image_tree(tmp_path / "images", {"cat": 8, "dog": 8})
    (folder / "cat" / "again").symlink_to(folder)
    (folder / "self").symlink_to(folder / "self")
    out = tmp_path / "run"
    more = ["--dataset", f"imagefolder:{folder}", "--variants", "a"]
    assert run_finetune(capsys, *tiny_command(out, narrow_weights, *more)).code == 0
    record = results_of(out)["dataset"]
    assert record["classes"] == ["cat", "dog"]
