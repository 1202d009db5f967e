"""The data sets by name, and images that turn out to be damaged."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import Flowers102

from finetune.data.datasets import load_dataset
from finetune.errors import BadImagesError, DataError
from finetune.system import download as network
from tests.builders.images import decode_evaluation, decode_training, image_tree, photo
from tests.builders.server import Server
from tests.machine import real_data

NOWHERE = Path("never-made")


class TestDigits:
    def test_all_of_them(self) -> None:
        data = load_dataset("digits", NOWHERE)
        assert (data.name, len(data.samples), data.has_splits) == ("digits", 1797, False)
        assert data.classes == tuple("0123456789")
        assert [s.id for s in data.samples] == sorted({s.id for s in data.samples})
        assert Counter(s.label for s in data.samples)[3] == 183
        assert not NOWHERE.exists()

    def test_gray_values_span_the_range(self) -> None:
        contents = [s.content for s in load_dataset("digits", NOWHERE).samples]
        assert all(isinstance(c, np.ndarray) and c.shape == (8, 8) for c in contents)
        values = {int(v) for c in contents for v in np.asarray(c).ravel()}
        assert values == {round(step * 255 / 16) for step in range(17)}


class TestDamagedImages:
    """Found when the images are decoded, before any training."""

    @pytest.mark.parametrize("decode", [decode_training, decode_evaluation])
    def test_every_one_is_listed(self, tmp_path: Path, decode: type[decode_training]) -> None:
        image_tree(tmp_path, {"a": 2, "b": 2})
        whole = photo(tmp_path / "whole.jpg", 1, 64, 64).read_bytes()
        (tmp_path / "a" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
        (tmp_path / "a" / "zero.jpg").write_bytes(b"")
        (tmp_path / "b" / "text.png").write_text("not a picture")
        with pytest.raises(BadImagesError) as caught:
            decode(load_dataset(f"imagefolder:{tmp_path}", NOWHERE).samples, 16, 2, lambda _: None)
        assert list(caught.value.reasons) == ["a/cut.jpg", "a/zero.jpg", "b/text.png"]
        assert "truncated" in caught.value.reasons["a/cut.jpg"]
        assert caught.value.reasons["b/text.png"] == "not an image"
        said = str(caught.value)
        assert "3" in said
        assert all(f"{name} ({reason})" in said for name, reason in caught.value.reasons.items())
        assert str(tmp_path) not in said


# Of a chain of redirects urllib leaves all answers but the last to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestFlowers:
    def test_the_official_counts(self) -> None:
        data = load_dataset("flowers102", real_data("flowers-102").parent)
        assert Counter(s.split for s in data.samples) == {"train": 1020, "val": 1020, "test": 6149}
        assert (len(data.classes), data.classes[0]) == (102, "pink primrose")
        assert {s.label for s in data.samples} == set(range(102))
        assert data.samples[0].id == "image_00001"
        assert data.has_splits

    @pytest.mark.parametrize(
        ("fault", "reason"),
        [
            ("404", "the server answered HTTP Error 404"),
            ("500", "the server answered HTTP Error 500"),
            ("loop", "redirect"),
            ("stall", "timed out"),
            ("html", "corrupted"),
            ("cut", "corrupted"),
            ("refused", "no connection"),
        ],
    )
    def test_downloads_that_fail(
        self, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, fault: str, reason: str
    ) -> None:
        url = "http://127.0.0.1:9" if fault == "refused" else server.url
        monkeypatch.setattr(network, "STALL_SECONDS", 0.3)
        monkeypatch.setattr(Flowers102, "_download_url_prefix", f"{url}/{fault}/")
        with pytest.raises(DataError) as caught:
            load_dataset("flowers102", tmp_path / "data")
        said = str(caught.value)
        assert reason in said
        assert said.startswith(f"Oxford Flowers-102 (not found in {tmp_path / 'data' / 'flowers-102'}) could")
        assert "--data-root, or use --dataset digits" in said
        assert "\n" not in said
