"""Small file systems of their own, and the tiny experiments of the tests of finetune."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.finetune.conftest import experiment, narrow, narrow_weights

__all__ = ["experiment", "narrow", "narrow_weights"]


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
