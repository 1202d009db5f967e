"""Decoding: what the network sees, pixel by pixel."""

from __future__ import annotations

import contextlib
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Resize

from finetune.data import decode as images
from finetune.data import store
from finetune.data.datasets import Sample
from finetune.data.stream import train_size
from finetune.errors import BadImagesError, DataError
from tests.builders.images import decode_evaluation, decode_training, photo


def nothing(_: int) -> None:
    """A progress bar that nobody looks at."""


def sample(path: Path) -> Sample:
    return Sample(path.name, 0, path)


def as_torchvision(image: Image.Image, size: int) -> np.ndarray:
    return np.asarray(Compose([Resize(round(size * 256 / 224)), CenterCrop(size)])(image.convert("RGB")))


class TestEvaluation:
    @pytest.mark.parametrize("size", [16, 17, 32, 33, 64, 224])
    @pytest.mark.parametrize(
        ("width", "height"),
        [
            (300, 200),
            (200, 300),
            (201, 333),
            (41, 40),
            (16, 16),
            (18, 18),
            (49, 147),
            (98, 49),
            (8, 8),
            (56, 7),
        ],
    )
    def test_equals_torchvision(self, tmp_path: Path, width: int, height: int, size: int) -> None:
        path = photo(tmp_path / "x.png", width * height, width, height)
        found = decode_evaluation([sample(path)], size, 1, nothing).image(0)
        np.testing.assert_array_equal(found, as_torchvision(Image.open(path), size))

    @given(width=st.integers(8, 700), height=st.integers(8, 700), size=st.integers(8, 64))
    @example(width=49, height=147, size=224)
    def test_equals_torchvision_for_any_shape(self, width: int, height: int, size: int) -> None:
        width, height = min(width, 8 * height), min(height, 8 * width)  # the next test has longer ones
        grey = np.random.default_rng(width).integers(0, 256, (height, width), dtype=np.uint8)
        found = decode_evaluation([Sample("0", 0, grey)], size, 1, nothing).image(0)
        np.testing.assert_array_equal(found, as_torchvision(Image.fromarray(grey), size))

    @pytest.mark.parametrize(("width", "height"), [(3000, 10), (10, 3000), (901, 100)])
    def test_of_a_very_long_image_the_middle(self, width: int, height: int) -> None:
        grey = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
        found = decode_evaluation([Sample("0", 0, grey)], 32, 1, nothing).image(0)
        middle = (
            grey[:, width // 2 - 40 : width // 2 + 40] if width > height else grey[height // 2 - 40 :][:80]
        )
        if min(width, height) == 10:
            np.testing.assert_array_equal(
                found, as_torchvision(Image.fromarray(np.ascontiguousarray(middle)), 32)
            )
        assert found.shape == (32, 32, 3)

    def test_a_jpeg(self, tmp_path: Path) -> None:
        path = photo(tmp_path / "x.jpg", 5, 90, 70, quality=90)
        found = decode_evaluation([sample(path)], 32, 1, nothing).image(0)
        np.testing.assert_array_equal(found, as_torchvision(Image.open(path), 32))

    def test_several_in_order_with_progress(self, tmp_path: Path) -> None:
        paths = [photo(tmp_path / f"{i}.png", i, 20 + i, 30) for i in range(7)]
        told: list[int] = []
        found = decode_evaluation([sample(p) for p in paths], 16, 3, told.append)
        assert len(found) == 7
        assert sum(told) == 7
        for i, path in enumerate(paths):
            np.testing.assert_array_equal(found.image(i), as_torchvision(Image.open(path), 16))


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif(self, tmp_path: Path, orientation: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = photo(tmp_path / "x.png", 1, 40, 24, exif=exif)
        raw = np.asarray(Image.open(path))
        upright = {
            1: raw,
            2: raw[:, ::-1],
            3: raw[::-1, ::-1],
            4: raw[::-1],
            5: raw.swapaxes(0, 1),
            6: raw[::-1].swapaxes(0, 1),
            7: raw[::-1, ::-1].swapaxes(0, 1),
            8: raw[:, ::-1].swapaxes(0, 1),
        }[orientation]
        stored = decode_training([sample(path)], 64, 1, nothing)
        np.testing.assert_array_equal(stored.image(0), upright)
        seen = decode_evaluation([sample(path)], 16, 1, nothing).image(0)
        np.testing.assert_array_equal(
            seen, as_torchvision(Image.fromarray(np.ascontiguousarray(upright)), 16)
        )


class TestTraining:
    @pytest.mark.parametrize(
        ("height", "width", "expected"),
        [
            (32, 32, (32, 32)),  # at the cap
            (31, 400, (31, 400)),  # below it
            (64, 64, (32, 32)),
            (64, 96, (32, 48)),
            (96, 64, (48, 32)),
            (1000, 33, (970, 32)),
            (1, 50, (1, 50)),
        ],
    )
    def test_the_short_side_is_capped_at_twice_the_input(
        self, height: int, width: int, expected: tuple[int, int]
    ) -> None:
        assert train_size(height, width, 16) == expected

    def test_small_images_are_stored_unchanged(self, tmp_path: Path) -> None:
        path = photo(tmp_path / "x.png", 1, 30, 21)
        kept = decode_training([sample(path)], 16, 1, nothing)
        np.testing.assert_array_equal(kept.image(0), np.asarray(Image.open(path)))

    def test_large_ones_are_resized(self, tmp_path: Path) -> None:
        path = photo(tmp_path / "x.png", 1, 96, 64)
        kept = decode_training([sample(path)], 16, 1, nothing)
        np.testing.assert_array_equal(kept.image(0), np.asarray(Image.open(path).resize((48, 32), 2)))

    def test_different_sizes_lie_behind_each_other(self, tmp_path: Path) -> None:
        sizes = [(10, 20), (33, 12), (8, 8)]
        paths = [photo(tmp_path / f"{i}.png", i, w, h) for i, (w, h) in enumerate(sizes)]
        kept = decode_training([sample(p) for p in paths], 16, 2, nothing)
        assert kept.sizes.tolist() == [[h, w] for w, h in sizes]
        assert kept.offsets.tolist() == [0, 600, 600 + 1188]
        for i, path in enumerate(paths):
            np.testing.assert_array_equal(kept.image(i), np.asarray(Image.open(path)))


class TestModes:
    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
    def test_every_mode_becomes_rgb(self, tmp_path: Path, mode: str) -> None:
        path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
        grey = np.arange(24 * 20, dtype=np.uint16).reshape(20, 24)
        if mode == "I;16":
            Image.fromarray(grey * 100).save(path)
        else:
            Image.fromarray((grey // 2).astype(np.uint8)).convert("RGB").convert(mode).save(path)
        for decode in (decode_training, decode_evaluation):
            assert decode([sample(path)], 16, 1, nothing).image(0).shape[2] == 3

    def test_sixteen_bits_are_scaled_to_eight(self, tmp_path: Path) -> None:
        grey = np.full((20, 20), 200 * 256 + 7, dtype=np.uint16)
        Image.fromarray(grey).save(tmp_path / "x.png")
        assert (decode_training([sample(tmp_path / "x.png")], 16, 1, nothing).image(0) == 200).all()

    def test_transparent_parts_become_white(self, tmp_path: Path) -> None:
        Image.new("RGBA", (20, 20), (10, 20, 30, 0)).save(tmp_path / "x.png")
        assert (decode_training([sample(tmp_path / "x.png")], 16, 1, nothing).image(0) == 255).all()

    def test_remarks_on_odd_metadata_are_no_errors(self, tmp_path: Path) -> None:
        image = Image.new("P", (20, 20))
        image.save(tmp_path / "x.png", transparency=b"\x00\x80")  # Pillow warns when this becomes RGB
        assert len(decode_training([sample(tmp_path / "x.png")], 16, 1, nothing)) == 1

    def test_a_wrong_ending_does_not_matter(self, tmp_path: Path) -> None:
        photo(tmp_path / "x.png", 1).rename(tmp_path / "x.jpg")
        assert len(decode_training([sample(tmp_path / "x.jpg")], 16, 1, nothing)) == 1


class TestErrors:
    def test_a_decompression_bomb(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = photo(tmp_path / "bomb.png", 1, 100, 100)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        with pytest.raises(BadImagesError, match=r"bomb\.png \(.*decompression bomb"):
            decode_evaluation([sample(path)], 16, 1, nothing)

    def test_floating_point(self, tmp_path: Path) -> None:
        Image.fromarray(np.zeros((20, 20), dtype=np.float32)).save(tmp_path / "x.tif")
        with pytest.raises(BadImagesError, match="floating-point"):
            decode_training([sample(tmp_path / "x.tif")], 16, 1, nothing)

    def test_a_file_that_changes_between_the_two_readings(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = photo(tmp_path / "x.png", 1, 20, 20)
        monkeypatch.setattr(images, "image_size", lambda _: (20, 25))
        with pytest.raises(BadImagesError, match=r"x\.png"):
            decode_training([sample(path)], 16, 1, nothing)

    def test_bugs_pass_through(self, tmp_path: Path) -> None:
        def broken(_: int) -> None:
            raise KeyError("bug")

        with pytest.raises(KeyError):
            decode_training([sample(photo(tmp_path / "x.png", 1))], 16, 1, broken)

    @pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp", "ppm"])
    @given(data=st.data())
    def test_any_damage_is_decoded_or_reported(
        self, tmp_path_factory: pytest.TempPathFactory, suffix: str, data: st.DataObject
    ) -> None:
        path = photo(tmp_path_factory.mktemp("damaged") / f"x.{suffix}", 1, 16, 16)
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 8))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        for decode in (decode_training, decode_evaluation):
            with contextlib.suppress(BadImagesError):
                decode([sample(path)], 8, 1, nothing)


class TestMemory:
    @pytest.mark.parametrize(("spare", "in_memory"), [(0, False), (2, True)])
    def test_a_file_takes_over_where_memory_is_short(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spare: int, in_memory: bool
    ) -> None:
        samples = [sample(photo(tmp_path / f"{i}.png", i)) for i in range(3)]
        kept = decode_training(samples, 16, 1, nothing)
        monkeypatch.setattr(store, "available_memory_bytes", lambda: 2 * len(kept.pixels) + spare)
        monkeypatch.setattr(store.tempfile, "tempdir", str(tmp_path / "temporary"))
        (tmp_path / "temporary").mkdir()
        again = decode_training(samples, 16, 1, nothing)
        assert again.in_memory == in_memory
        np.testing.assert_array_equal(kept.pixels, np.asarray(again.pixels))
        assert not list((tmp_path / "temporary").iterdir())  # nothing is left when the process is killed

    def test_neither_memory_nor_disk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(store, "available_memory_bytes", lambda: 0)
        monkeypatch.setattr(store.os, "posix_fallocate", full)
        with pytest.raises(DataError, match="No space left on device"):
            decode_training([Sample("0", 0, np.zeros((9, 9), dtype=np.uint8))], 16, 1, nothing)
