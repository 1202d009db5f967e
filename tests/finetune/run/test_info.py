"""What `finetune info` knows, and what it says where something is missing."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest

from finetune.run import info
from tests.builders.runs import Command


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without weights, data sets and cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    """Let packages be missing from the installation."""
    version = importlib.metadata.version

    def fake(name: str) -> str:
        if name in missing:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", fake)


def test_json_is_what_people_read(here: Path, finetune: Command) -> None:
    code, out, err = finetune("info", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["packages"]["torch"] == importlib.metadata.version("torch")
    assert found["cpu"]["threads"] >= 1
    assert found["cache"] == {
        "path": str(here / "cache" / "finetune" / "images"),
        "n_entries": 0,
        "n_bytes": 0,
        "limit_bytes": 10**10,
    }
    _, text, _ = finetune("info")
    assert text.splitlines()[0] == info.lines(found)[0]


def test_weights_and_data_sets(here: Path) -> None:
    found = info.describe(here)
    bundled, imagenet = found["weights"]
    assert bundled["n_bytes"] > 10**7
    assert imagenet["n_bytes"] is None
    shown = info.lines(found)
    assert f"Weights imagenet: not there yet, downloaded when needed to {imagenet['path']}" in shown
    assert f"Data set flowers102: not in {here / 'flowers-102'}, downloaded when needed" in shown
    (here / "flowers-102" / "jpg").mkdir(parents=True)
    Path(imagenet["path"]).parent.mkdir(parents=True)
    Path(imagenet["path"]).write_bytes(bytes(46_000_000))
    shown = info.lines(info.describe(here))
    assert f"Weights imagenet: 46 MB in {imagenet['path']}" in shown
    assert f"Data set flowers102: {here / 'flowers-102'}" in shown


def test_missing_extras_and_how_to_install_them(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "captum")
    found = info.describe(here)
    (explain,) = (extra for extra in found["extras"] if extra["name"] == "explain")
    assert explain == {
        "name": "explain",
        "missing": ["captum"],
        "install": 'pip install "finetune[explain]"',
    }
    assert 'Extra explain: missing captum; pip install "finetune[explain]"' in info.lines(found)
    assert "Extra train: installed" in info.lines(found)
    assert {"dev", "docs"}.isdisjoint(extra["name"] for extra in found["extras"])


def test_without_pytorch(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "torch", "torchvision", "pillow", "psutil", "filelock", "scikit-learn")
    found = info.describe(here)
    assert (found["cpu"], found["gpus"], found["cache"]) == (None, [], None)
    assert [weights["name"] for weights in found["weights"]] == ["bundled"]
    shown = info.lines(found)
    assert "Data set digits: needs scikit-learn" in shown
    assert not any(line.startswith(("CPU", "GPU", "Memory", "Cache")) for line in shown)


def test_a_variable_that_breaks_its_rule(
    here: Path,  # noqa: ARG001 - wanted for its effect
    finetune: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FINETUNE_CACHE_LIMIT", "much")
    code, _, err = finetune("info")
    assert code == 2
    assert err.startswith("Error: FINETUNE_CACHE_LIMIT must be a number with MB, GB or TB")
