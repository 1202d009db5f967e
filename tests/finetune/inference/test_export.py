"""Networks as files for other programs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open

from finetune.data.inputs import decoded, image_files
from finetune.errors import FinetuneError
from finetune.inference import export as export_module
from finetune.inference.export import EXPORTS, export
from finetune.inference.predict import predict
from finetune.inference.trained import TrainedModel, load_model
from finetune.run.folder import RunFolder
from finetune.training.evaluate import normalized
from tests.builders.images import photo

CPU = torch.device("cpu")
Logits = Callable[[Any], Any]


def opened(file: Path, model: TrainedModel) -> tuple[dict[str, str], Logits]:
    """The metadata of an exported file and what it computes, as another program reads them."""
    if file.suffix == ".onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        about = session.get_modelmeta().custom_metadata_map
        return about, lambda images: session.run(None, {"images": images})[0]
    network = model.network
    if file.suffix == ".pt":
        extra = {"metadata.json": ""}
        network = torch.jit.load(file, _extra_files=extra)
        about = json.loads(extra["metadata.json"])
    else:
        with safe_open(file, "pt") as tensors:
            about = tensors.metadata()
            state = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 - no mapping
        assert state.keys() == network.state_dict().keys()
        network.load_state_dict(state)
    return about, lambda images: network(torch.from_numpy(images)).detach().numpy()


@pytest.mark.usefixtures("narrow")
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize("form", EXPORTS)
def test_equals_pytorch_on_photos_in_batches_of_any_size(
    photos_run: tuple[Path, Path], tmp_path: Path, form: str
) -> None:
    if form == "onnx":
        pytest.importorskip("onnxruntime", reason="pip install 'finetune[export]'")
    run, photos = photos_run
    model = load_model(RunFolder(run), CPU, "b")
    file, card = export(model, form, tmp_path)
    (batch,) = decoded(image_files([photos]), model.image_size, 1)
    images = normalized(batch.pixels, CPU).contiguous()
    with torch.inference_mode():
        wanted = model.network(images).numpy()
    about, logits = opened(file, model)
    for n in (1, 2, len(images)):
        np.testing.assert_allclose(logits(images[:n].numpy()), wanted[:n], rtol=1e-4, atol=1e-4)
    assert json.loads(about["classes"]) == ["cat", "dog"]
    assert float(about["temperature"]) == model.temperature
    assert json.loads(about["calibration"])["n_bins"] == 15
    assert str(Path.cwd()).encode() not in file.read_bytes()
    assert sys.prefix.encode() not in file.read_bytes()
    assert card.read_text().startswith("---\nlicense: other\n")


@pytest.mark.usefixtures("narrow")
def test_a_file_that_computes_something_else_is_not_written(
    photos_run: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = photos_run
    model = load_model(RunFolder(run), CPU, "b")
    monkeypatch.setattr(export_module, "TOLERANCE", 0)
    wrong = export_module.Format("x", "x", lambda *_: b"", lambda *_: lambda images: images)
    monkeypatch.setitem(EXPORTS, "wrong", wrong)
    with pytest.raises(FinetuneError, match="must give PyTorch's logits"):
        export(model, "wrong", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def program_of(card: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return str(code)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize("form", EXPORTS)
def test_the_program_in_the_card_gives_the_same_probability(
    finished: tuple[Path, Any, Any, Any], tmp_path: Path, form: str
) -> None:
    if form == "onnx":
        pytest.importorskip("onnxruntime", reason="pip install 'finetune[export]'")
    folder = RunFolder(finished[0])
    model = load_model(folder, CPU, "b")
    _, card = export(model, form, tmp_path)
    image = photo(tmp_path / "photo.jpg", 3, 60, 40)
    (wanted,) = predict(load_model(folder, CPU, "b"), [image], top=1)
    code = ["-W", "ignore", "-c", program_of(card.read_text())]
    done = subprocess.run([sys.executable, *code], cwd=tmp_path, capture_output=True, text=True, check=True)
    name, probability = done.stdout.split()
    assert name == wanted.classes[0][0]
    assert float(probability) == pytest.approx(wanted.classes[0][1], abs=5e-3)  # the run's may be in bf16


@pytest.mark.usefixtures("narrow")
class TestCard:
    def card(self, run: Path, tmp_path: Path) -> str:
        model = load_model(RunFolder(run), CPU, "b")
        return export(model, "safetensors", tmp_path / "out")[1].read_text()

    def test_its_front_matter_holds_the_results(self, photos_run: tuple[Path, Path], tmp_path: Path) -> None:
        card = self.card(photos_run[0], tmp_path)
        front = yaml.safe_load(card.split("---\n")[1])
        document = json.loads((photos_run[0] / "results.json").read_text())
        run = next(r for r in document["runs"] if r["variant"] == "B")
        test = run["epochs"][run["best_epoch"] - 1]["test"]
        (result,) = front["model-index"][0]["results"]
        assert result["metrics"][0]["value"] == round(test["n_correct"] / test["n_samples"], 4)
        assert f"It is right on {test['n_correct']} of {test['n_samples']} test images" in card
        assert "## Limits" in card
        assert front["pipeline_tag"] == "image-classification"

    def test_names_have_no_markup(self, photos_run: tuple[Path, Path], tmp_path: Path) -> None:
        run = shutil.copytree(photos_run[0], tmp_path / "run")
        document = json.loads((run / "results.json").read_text())
        evil = '<script>alert(1)</script>\n# Title [x](http://x) "'
        document["dataset"]["classes"][0] = evil
        document["config"]["dataset"] = f"imagefolder:{evil}"
        (run / "results.json").write_text(json.dumps(document))
        card = self.card(run, tmp_path)
        front = yaml.safe_load(card.split("---\n")[1])
        assert evil in front["model-index"][0]["name"]
        body = card.split("---\n", 2)[2]
        assert "<script>" not in body
        assert "\n# Title" not in body
        assert "[x](" not in body
