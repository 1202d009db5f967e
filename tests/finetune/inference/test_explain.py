"""Where a network finds the evidence for a class."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.errors import FinetuneError
from finetune.inference.explain import explain
from finetune.inference.predict import predict
from finetune.inference.trained import TrainedModel, load_model
from finetune.run.folder import RunFolder
from tests.builders.images import photo

pytest.importorskip("captum", reason="pip install 'finetune[explain]'")
pytestmark = pytest.mark.usefixtures("narrow")


@pytest.fixture
def model(photos_run: tuple[Path, Path]) -> TrainedModel:
    return load_model(RunFolder(photos_run[0]), torch.device("cpu"), "b")


def test_draws_the_class_that_is_asked_for(tmp_path: Path, model: TrainedModel) -> None:
    image = photo(tmp_path / "x.png", 1, 80, 60)
    found = [explain(model, image, name) for name in ("cat", "dog")]
    assert [e.name for e in found] == ["cat", "dog"]
    assert sum(e.probability for e in found) == pytest.approx(1, abs=1e-5)
    likely = explain(model, image)
    assert likely.probability == pytest.approx(max(e.probability for e in found))
    pictures = [np.asarray(Image.open(io.BytesIO(e.picture)).convert("RGB")) for e in found]
    assert pictures[0].shape == pictures[1].shape
    assert (pictures[0] != pictures[1]).any()


def test_says_the_same_as_predict(tmp_path: Path, model: TrainedModel) -> None:
    image = photo(tmp_path / "x.png", 1, 80, 60)
    model = dataclasses.replace(model, precision="bf16")
    ((name, probability), *_) = next(predict(model, [image], top=1)).classes
    found = explain(model, image)
    assert (found.name, found.probability) == (name, probability)


def test_small_images_are_explained_by_an_earlier_stage(tmp_path: Path, model: TrainedModel) -> None:
    found = explain(model, photo(tmp_path / "x.png", 1))
    assert (model.image_size, found.stage, found.rows) == (32, "layer2", 4)


def test_is_refused(tmp_path: Path, model: TrainedModel) -> None:
    image = photo(tmp_path / "x.png", 1)
    with pytest.raises(FinetuneError, match="class must be one of cat, dog, but 'cow'"):
        explain(model, image, "cow")
    with pytest.raises(FinetuneError, match=r"nothing at .*y\.png"):
        explain(model, tmp_path / "y.png")
    (tmp_path / "bad.png").write_bytes(b"x")
    with pytest.raises(FinetuneError, match=r"^IMAGE must .*bad\.png cannot be \(not an image\); name"):
        explain(model, tmp_path / "bad.png")
    with pytest.raises(FinetuneError):
        explain(model, tmp_path)
