"""Every command on a GPU, on one small job."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.builders.runs import results_of, run_finetune

OPTIONS = "--dataset digits --subset 4 --epochs 2 --batch-size 16 --image-size 32 --lr 0.02 --weights bundled"
TRAINED = OPTIONS.split()


@pytest.fixture(scope="module")
def run(device: torch.device, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished job that kept states; started as a user would, so the other commands cannot help it."""
    out = tmp_path_factory.mktemp("commands") / "run"
    words = ["train", *TRAINED, "--keep-states", "1", "--device", device.type, "--out", str(out)]
    done = subprocess.run([sys.executable, "-m", "finetune", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Grade: grader" in done.stdout
    return out


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_train(run: Path, device: torch.device) -> None:
    environment = results_of(run)["environment"]
    assert environment["device"] == device.type
    assert (environment["cuda"] is not None) == (device.type == "cuda")
    assert (run / "report.html").is_file()


def test_evaluate(
    run: Path, device: torch.device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run_finetune(capsys, "evaluate", run, "--output", tmp_path, "--device", device.type)
    assert done.code == 0, done.err
    assert len(list(tmp_path.glob("*-seed0-*.csv"))) == 6


def test_predict(run: Path, photo: Path, device: torch.device, capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for where in (device.type, "cpu"):
        done = run_finetune(capsys, "predict", run, photo, "--device", where)
        assert done.code == 0, done.err
        said.append(done.out)
    assert "photo.png" in said[0]


def test_explain(
    run: Path, photo: Path, device: torch.device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("captum", reason="needs captum", exc_type=ImportError)
    done = run_finetune(capsys, "explain", run, photo, "--device", device.type, "--out", tmp_path / "why.png")
    assert done.code == 0, done.err
    with Image.open(tmp_path / "why.png") as picture:
        assert picture.size[0] > 500


@pytest.mark.parametrize("form", ["safetensors", "torchscript", "onnx"])
def test_export(run: Path, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if form == "onnx":
        for module in ("onnx", "onnxruntime", "onnxscript"):
            pytest.importorskip(module, reason=f"needs {module}", exc_type=ImportError)
    done = run_finetune(capsys, "export", run, "--format", form, "--out", tmp_path)
    assert done.code == 0, done.err
    assert len(list(tmp_path.iterdir())) == 2


def test_report(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "report.html").unlink()
    done = run_finetune(capsys, "report", run)
    assert done.code == 0, done.err
    assert (run / "report.html").is_file()


def test_profile(device: torch.device, capsys: pytest.CaptureFixture[str]) -> None:
    done = run_finetune(capsys, "profile", *TRAINED, "--device", device.type)
    assert done.code == 0, done.err
    assert "training steps" in done.out


def test_merge(device: torch.device, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = [tmp_path / variant for variant in ("a", "b", "c")]
    for part in parts:
        words = ["train", *TRAINED, "--variants", part.name, "--device", device.type, "--out", part]
        assert run_finetune(capsys, *words).code == 0
    done = run_finetune(capsys, "merge", *parts, "--out", tmp_path / "merged")
    assert done.code == 0, done.err
    assert len(results_of(tmp_path / "merged")["runs"]) == 3


@pytest.mark.parametrize(("option", "finding"), [("--rerun", "rerun-agrees"), ("--replay", "replay-agrees")])
def test_grader(run: Path, option: str, finding: str) -> None:
    """What the GPU computed is computed again, there and by another process, and agrees."""
    words = [sys.executable, "-m", "grader", str(run), option, "--format", "json"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode in (0, 1), (
        done.stderr
    )  # 1: a job so small may not show what the properties ask for
    findings = {found["property"]: found["status"] for found in json.loads(done.stdout)["findings"]}
    assert findings[finding] == "holds"
