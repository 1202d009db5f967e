"""Image formats: which are read, what they look like, and what is said of the others."""

from __future__ import annotations

import builtins
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune.data import formats
from finetune.data.datasets import Sample, load_dataset
from finetune.data.decode import image_size, open_image
from finetune.data.inputs import decoded, image_files
from finetune.errors import DataError
from tests.builders.images import image_tree, photo

RED, BLUE = (200, 30, 20), (20, 30, 200)
EXIF_ORIENTATION = 0x0112


@pytest.fixture(params=[True, False], ids=["with-pillow-heif", "without-pillow-heif"])
def heic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """Whether pillow-heif is installed."""
    if request.param:
        pytest.importorskip("pillow_heif", reason='needs pip install "finetune[heic]"')
    else:
        real = builtins.__import__

        def without(name: str, *arguments: Any) -> Any:
            if name == "pillow_heif":
                raise ModuleNotFoundError(name)
            return real(name, *arguments)

        monkeypatch.setattr(builtins, "__import__", without)
    formats._heif_file.cache_clear()
    yield request.param
    formats._heif_file.cache_clear()


def halves(width: int = 48, height: int = 32) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def write_heic(path: Path, **options: Any) -> Path:
    pillow_heif = pytest.importorskip("pillow_heif", reason='needs pip install "finetune[heic]"')
    path.parent.mkdir(parents=True, exist_ok=True)
    pillow_heif.from_pillow(halves()).save(path, quality=90, **options)
    return path


def pixels(path: Path) -> np.ndarray[Any, Any]:
    image = open_image(Sample(path.name, 0, path))
    assert (image.height, image.width) == image_size(Sample(path.name, 0, path))
    return np.asarray(image).astype(int)


def close(found: np.ndarray[Any, Any], color: tuple[int, int, int], most: int = 12) -> bool:
    return bool((np.abs(found - color) <= most).all())


class TestLooksAsAPersonExpects:
    @pytest.mark.parametrize("suffix", [s for s in formats.PICTURES if s not in formats.NOT_READ])
    def test_every_format(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"x{suffix.upper()}"
        kind = formats.PICTURES[suffix]
        if kind == "HEIC":
            write_heic(path)
        elif suffix == ".avif" and formats.remedy("AVIF"):
            pytest.skip("this Pillow was built without AVIF")
        else:
            image = halves().convert("L") if suffix == ".pgm" else halves()
            image.save(path, format=kind)
        left, right = (RED, BLUE) if suffix != ".pgm" else ((80,) * 3, (46,) * 3)
        found = pixels(path)
        assert found.shape == (32, 48, 3)
        assert close(found[:, 2:20], left)
        assert close(found[:, 28:46], right)
        assert formats.is_read(path)

    @pytest.mark.parametrize("kind", ["GIF", "WebP", "PNG", "AVIF"])
    def test_the_first_frame_of_an_animation(self, tmp_path: Path, kind: str) -> None:
        if kind == "AVIF" and formats.remedy("AVIF"):
            pytest.skip("this Pillow was built without AVIF")
        frames = [Image.new("RGB", (40, 40), color) for color in (RED, BLUE, (9, 99, 9))]
        path = tmp_path / f"x.{kind.lower()}"
        frames[0].save(path, format=kind, save_all=True, append_images=frames[1:], duration=100)
        with Image.open(path) as image:
            assert getattr(image, "n_frames", 1) == 3
        assert close(pixels(path), RED)

    def test_a_transparent_palette_is_white(self, tmp_path: Path) -> None:
        image = Image.new("P", (8, 8), 1)
        image.putpalette([0, 0, 0, *RED])
        image.putpixel((0, 0), 0)
        image.save(tmp_path / "x.gif", transparency=0)
        found = pixels(tmp_path / "x.gif")
        assert found[0, 0].tolist() == [255, 255, 255]
        assert found[4, 4].tolist() == list(RED)

    @pytest.mark.parametrize("suffix", [".jpg", ".tif"])
    def test_cmyk(self, tmp_path: Path, suffix: str) -> None:
        halves().convert("CMYK").save(tmp_path / f"x{suffix}")
        found = pixels(tmp_path / f"x{suffix}")
        assert close(found[:, 2:20], RED)
        assert close(found[:, 28:46], BLUE)

    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    def test_sixteen_bits(self, tmp_path: Path, suffix: str) -> None:
        Image.fromarray(np.full((8, 8), 51_300, dtype=np.uint16)).save(tmp_path / f"x{suffix}")
        assert (pixels(tmp_path / f"x{suffix}") == 200).all()

    @pytest.mark.parametrize("value", [70_000, -1])
    def test_whole_numbers_of_unknown_range_are_refused(self, tmp_path: Path, value: int) -> None:
        Image.fromarray(np.full((8, 8), value, dtype=np.int32)).save(tmp_path / "x.tif")
        (batch,) = decoded([tmp_path / "x.tif"], 8, 1)
        assert batch.problems == {0: "whole-number pixels of unknown range"}

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "TIFF"])
    def test_a_photo_taken_upright(self, tmp_path: Path, kind: str) -> None:
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = 6  # turn clockwise to see it upright
        halves().save(tmp_path / "x", format=kind, exif=exif)
        found = pixels(tmp_path / "x")
        assert found.shape == (48, 32, 3)
        assert close(found[2:20], RED)
        assert close(found[28:46], BLUE)

    def test_a_heic_photo_taken_upright(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = 6
        found = pixels(write_heic(tmp_path / "x.heic", exif=exif.tobytes()))
        assert found.shape == (48, 32, 3)
        assert close(found[2:20], RED)


class TestHeic:
    def test_in_an_image_folder(self, tmp_path: Path, heic: bool) -> None:
        image_tree(tmp_path, {"a": 2, "b": 2})
        for number in range(12):
            write_heic(tmp_path / "a" / f"{number}.HEIC")
        (tmp_path / "a" / "x.jxl").write_bytes(b"?")
        data = load_dataset(f"imagefolder:{tmp_path}", tmp_path)
        assert len(data.samples) == (16 if heic else 4)
        heics = () if heic else ('12 HEIC files skipped: pip install "finetune[heic]".',)
        assert data.notes == (*heics, "1 JPEG XL file skipped: convert to JPEG or PNG.")
        if not heic:
            assert dict(data.excluded)["a/3.HEIC"] == 'HEIC files are not read: pip install "finetune[heic]"'

    def test_a_class_of_nothing_else(self, tmp_path: Path, heic: bool) -> None:
        image_tree(tmp_path, {"a": 2, "b": 0})
        write_heic(tmp_path / "b" / "1.heic")
        if heic:
            assert len(load_dataset(f"imagefolder:{tmp_path}", tmp_path).samples) == 3
            return
        with pytest.raises(DataError, match=r"b contains none \(1 HEIC file skipped: pip install "):
            load_dataset(f"imagefolder:{tmp_path}", tmp_path)

    def test_to_be_predicted_whatever_its_name(self, tmp_path: Path, heic: bool) -> None:
        write_heic(tmp_path / "1.heic")
        write_heic(tmp_path / "2.jpg")
        photo(tmp_path / "3.png", 0)
        (batch,) = decoded(image_files([tmp_path]), 16, 1)
        assert len(batch.paths) == 3
        problem = 'HEIC files are not read: pip install "finetune[heic]"'
        assert batch.problems == ({} if heic else {0: problem, 1: problem})

    def test_a_damaged_one(self, tmp_path: Path) -> None:
        whole = write_heic(tmp_path / "x.heic").read_bytes()
        (tmp_path / "cut.heic").write_bytes(whole[: len(whole) // 2])
        (tmp_path / "head.heic").write_bytes(whole[:12])
        (batch,) = decoded([tmp_path / "cut.heic", tmp_path / "head.heic"], 16, 1)
        assert sorted(batch.problems) == [0, 1]

    def test_any_damage_has_a_reason_in_one_line(self, tmp_path: Path) -> None:
        whole, draw = write_heic(tmp_path / "x.heic").read_bytes(), np.random.default_rng(0)
        paths = [tmp_path / f"{number}.heic" for number in range(120)]
        for path in paths:
            damaged = bytearray(whole)
            for _ in range(draw.integers(1, 7)):
                damaged[draw.integers(12, len(damaged))] = draw.integers(256)
            path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = [problem for batch in decoded(paths, 16, 1) for problem in batch.problems.values()]
        assert len(found) > 10
        assert not any("\n" in problem for problem in found)

    def test_an_error_of_libheif_is_damage(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Such as an image that claims to be larger than libheif decodes."""
        path = write_heic(tmp_path / "x.heic")

        def fail(_: object) -> None:
            raise RuntimeError("Memory allocation error:\nSecurity limit exceeded\n")

        monkeypatch.setattr(formats._heif_file(), "load", fail)
        (batch,) = decoded([path], 16, 1)
        assert batch.problems == {0: "Memory allocation error: Security limit exceeded"}

    def test_pillow_itself_still_does_not_read_it(self, tmp_path: Path) -> None:
        pixels(write_heic(tmp_path / "x.heic"))
        with pytest.raises(Image.UnidentifiedImageError):
            Image.open(tmp_path / "x.heic")


def test_a_raw_file_is_not_its_thumbnail(tmp_path: Path) -> None:
    halves().save(tmp_path / "x.NEF", format="TIFF")
    (batch,) = decoded(image_files([tmp_path]), 16, 1)
    assert batch.problems == {0: "raw files are not read: convert to JPEG or PNG"}


def test_avif_where_pillow_was_built_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats.features, "check", lambda name: name != "avif")
    (tmp_path / "x.avif").write_bytes(b"\0\0\0 ftypavif" + bytes(40))
    (batch,) = decoded(image_files([tmp_path]), 16, 1)
    assert batch.problems == {
        0: "AVIF files are not read: install a Pillow with AVIF (pip install -U pillow)"
    }
    assert formats.skipped_lines([tmp_path / "x.avif"])[0].startswith("1 AVIF file skipped: install a Pillow")
