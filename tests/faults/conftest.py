"""Small file systems of their own, and the tiny experiments of the tests of finetune."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torchvision.models.resnet import ResNet

from finetune.network.resnet18 import Network
from finetune.run import environment
from finetune.run.experiment import run_experiment
from finetune.system.signals import StopRequest
from tests.finetune.conftest import _narrow_init
from tests.finetune.helpers import Quiet, tiny

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Syncing to a slow disk takes most of the time; no test here pulls a plug, and the soak does sync."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(autouse=True)
def _images_kept_by_no_other_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Decoded images are kept between runs, but not between tests, nor with the user's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "kept"))


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give ResNet-18 few channels, so that an experiment takes a fraction of a second."""
    monkeypatch.setattr(ResNet, "__init__", _narrow_init)
    monkeypatch.setattr(environment, "_git", lambda *_: None)


@pytest.fixture(scope="session")
def narrow_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file that fits the narrow network with ten classes."""
    path = tmp_path_factory.mktemp("weights") / "narrow.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResNet, "__init__", _narrow_init)
        torch.manual_seed(3)
        path.write_bytes(safetensors.torch.save(dict(Network(10).state_dict())))
    return path


@pytest.fixture
def narrow_weights(narrow: None, narrow_file: Path, tmp_path: Path) -> Path:  # noqa: ARG001 - wanted for its effect
    """A copy of that file which a test may damage."""
    return Path(shutil.copy(narrow_file, tmp_path / "narrow.safetensors"))


@pytest.fixture
def experiment(narrow_weights: Path) -> Callable[..., dict[str, Any]]:
    """Runs a tiny experiment with the narrow network in a folder; fields of the configuration as keywords."""

    def run(out: Path, **fields: Any) -> dict[str, Any]:
        return run_experiment(tiny(**{"weights": str(narrow_weights), **fields}), out, Quiet(), StopRequest())

    return run


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a small file system; called with its size, such as "2m", and more mount options."""
    mounted: list[Path] = []

    def mount(size: str, options: str = "") -> Path:
        place = tmp_path / f"volume{len(mounted)}"
        place.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}{options}", "tmpfs", str(place)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
