"""Which photos are shown, and where their pictures come from."""

from __future__ import annotations

import base64
import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.report.gallery import SIDE, Photo, Thumbnails, confident_mistakes, disagreements
from finetune.report.judged import JudgedRun, judged
from grader.submission.predictions import Predictions
from tests.builders.images import photo
from tests.builders.reports import simulated_run


def predictions(predicted: list[int], label_probability: list[float]) -> Predictions:
    """Predictions for photos p0, p1 and so on, all of class 0."""
    n = len(predicted)
    nll = -np.log(np.array(label_probability))
    return Predictions(tuple(f"p{i}" for i in range(n)), np.zeros(n, np.int64), np.array(predicted), nll)


@dataclasses.dataclass(frozen=True)
class WithConfidence(Predictions):
    """As files of later versions hold them."""

    confidence: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))


class TestConfidentMistakes:
    def test_least_likely_labels_first(self) -> None:
        found = confident_mistakes("B", predictions([1, 0, 2, 3], [0.3, 0.9, 0.01, 0.2]))
        assert [p.sample_id for p in found] == ["p2", "p3", "p0"]
        (answer,) = found[0].answers
        assert (answer.variant, answer.predicted, answer.is_correct, answer.confidence) == (
            "B",
            2,
            False,
            None,
        )
        assert answer.label_probability == pytest.approx(0.01)

    def test_most_confident_predictions_first_where_these_are_known(self) -> None:
        plain = predictions([1, 0, 2, 3], [0.3, 0.9, 0.01, 0.2])
        found = WithConfidence(
            plain.sample_ids, plain.labels, plain.predicted, plain.nll, np.array([0.6, 0.9, 0.5, 0.7])
        )
        photos = confident_mistakes("B", found)
        assert [p.sample_id for p in photos] == ["p3", "p0", "p2"]
        assert photos[0].answers[0].confidence == pytest.approx(0.7)

    def test_at_most_twelve(self) -> None:
        assert len(confident_mistakes("B", predictions([1] * 50, [0.1] * 50))) == 12


def test_disagreements_by_how_differently_the_label_is_rated() -> None:
    b = predictions([0, 0, 1, 1], [0.6, 0.9, 0.2, 0.1])
    c = predictions([1, 1, 1, 2], [0.4, 0.05, 0.1, 0.3])
    found = disagreements(("B", "C"), b, c)
    assert [p.sample_id for p in found] == ["p1", "p0", "p3"]
    assert [(a.variant, a.is_correct) for a in found[0].answers] == [("B", True), ("C", False)]
    assert found[0].answers[0].confidence == pytest.approx(0.9)


class TestThumbnails:
    @pytest.fixture
    def run(self, tmp_path: Path) -> JudgedRun:
        (found,) = judged([simulated_run(tmp_path / "run")])
        return found

    @staticmethod
    def configure(run: JudgedRun, dataset: str) -> Thumbnails:
        (run.folder / "config.toml").write_text(f'dataset = "{dataset}"\ndata_root = "{run.folder}"\n')
        return Thumbnails(run)

    @staticmethod
    def pictured(thumbnails: Thumbnails, sample_id: str) -> Image.Image | None:
        (found,) = thumbnails.of([Photo(sample_id, 0, ())])
        if not found.source:
            return None
        return Image.open(io.BytesIO(base64.b64decode(found.source.partition(",")[2])))

    def test_a_large_photo_is_made_small(self, run: JudgedRun, tmp_path: Path) -> None:
        photo(tmp_path / "images" / "cat" / "1.png", 0, 600, 300)
        thumbnails = self.configure(run, f"imagefolder:{tmp_path / 'images'}")
        picture = self.pictured(thumbnails, "./cat/1.png")
        assert picture is not None
        assert (picture.format, picture.size) == ("WEBP", (SIDE, SIDE // 2))
        assert thumbnails.problem == ""

    def test_digits_are_embedded_as_they_are(self, run: JudgedRun) -> None:
        picture = self.pictured(self.configure(run, "digits"), "digit-0007")
        assert picture is not None
        assert (picture.format, picture.size) == ("PNG", (8, 8))

    def test_flowers_are_found_without_listing_the_data_set(self, run: JudgedRun) -> None:
        photo(run.folder / "flowers-102" / "jpg" / "image_00042.jpg", 0, 64, 64)
        assert self.pictured(self.configure(run, "flowers102"), "image_00042") is not None

    @pytest.mark.parametrize("sample_id", ["../secret.png", "cat/../../secret.png", "/etc/passwd"])
    def test_nothing_outside_the_data_set_is_read(
        self, run: JudgedRun, tmp_path: Path, sample_id: str
    ) -> None:
        photo(tmp_path / "secret.png", 0)
        photo(tmp_path / "images" / "cat" / "1.png", 0)
        thumbnails = self.configure(run, f"imagefolder:{tmp_path / 'images'}")
        assert self.pictured(thumbnails, sample_id) is None

    def test_pictures_that_are_gone_or_damaged(self, run: JudgedRun, tmp_path: Path) -> None:
        thumbnails = self.configure(run, f"imagefolder:{tmp_path}")
        assert self.pictured(thumbnails, "1.png") is None
        assert thumbnails.problem == "they are no longer where the run found them"
        (tmp_path / "1.png").write_bytes(b"no picture")
        assert self.pictured(thumbnails, "1.png") is None
        assert thumbnails.problem == "they can no longer be read"

    def test_without_a_configuration(self, run: JudgedRun) -> None:
        thumbnails = Thumbnails(run)
        assert self.pictured(thumbnails, "1.png") is None
        assert "config.toml" in thumbnails.problem
