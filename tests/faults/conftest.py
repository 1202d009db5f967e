"""Small file systems, caches and weights of their own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(no_fsync: None) -> None:
    """No test here cuts the power, and the soak does sync."""


@pytest.fixture(autouse=True)
def _checkpoints(saved_after_each_epoch: None) -> None:
    """Something to be damaged, although epochs take milliseconds here."""


@pytest.fixture(autouse=True)
def _cache_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Decoded images are cached between runs, but not between tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def narrow_weights(narrow_weights: Path, tmp_path: Path) -> Path:
    """A copy of that file which a test may damage."""
    return Path(shutil.copy(narrow_weights, tmp_path / "narrow.safetensors"))


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a small file system; called with its size, such as "2m", and more mount options."""
    mounted: list[Path] = []

    def mount(size: str, options: str = "") -> Path:
        volume = tmp_path / f"volume{len(mounted)}"
        volume.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}{options}", "tmpfs", str(volume)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
        mounted.append(volume)
        return volume

    yield mount
    for volume in mounted:
        subprocess.run(["umount", "--lazy", str(volume)], check=True)
