"""Predictions for images that nobody has labelled."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from scipy.special import expit, logit

from finetune.errors import DataError
from finetune.inference.predict import predict
from finetune.inference.trained import TrainedModel, load_model
from finetune.run.folder import RunFolder
from tests.builders.images import photo

pytestmark = pytest.mark.usefixtures("narrow")


@pytest.fixture
def model(photos_run: tuple[Path, Path]) -> TrainedModel:
    return load_model(RunFolder(photos_run[0]), torch.device("cpu"), "b")


def test_agrees_with_the_predictions_of_the_run(photos_run: tuple[Path, Path], model: TrainedModel) -> None:
    run, photos = photos_run
    with (run / "predictions" / "B-seed0-test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = list(predict(model, [photos / row["sample_id"] for row in rows], top=2))
    names = model.results.classes
    assert [p.path for p in found] == [photos / row["sample_id"] for row in rows]
    assert [p.classes[0][0] for p in found] == [names[int(row["predicted"])] for row in rows]
    for prediction, row in zip(found, rows, strict=True):
        # Two classes: the logits' difference is log(p / (1 - p)), and the temperature divides it.
        wanted = expit(logit(float(row["confidence"])) / model.temperature)
        assert prediction.classes[0][1] == pytest.approx(wanted, abs=1e-4)
        assert sum(p for _, p in prediction.classes) == pytest.approx(1, abs=1e-5)


def test_files_keep_their_order_whatever_can_be_read(tmp_path: Path, model: TrainedModel) -> None:
    for i in range(70):
        photo(tmp_path / f"{i:02d}.png", i)
    for i in (0, 31, 32, 33, 69):
        (tmp_path / f"{i:02d}.png").write_bytes(b"damaged")
    found = list(predict(model, [tmp_path], top=1))
    assert [p.path.stem for p in found] == [f"{i:02d}" for i in range(70)]
    assert [i for i, p in enumerate(found) if p.problem] == [0, 31, 32, 33, 69]
    assert all(len(p.classes) == (p.problem is None) for p in found)


def test_a_folder_without_images(tmp_path: Path, model: TrainedModel) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="none was found"):
        list(predict(model, [tmp_path], top=1))
