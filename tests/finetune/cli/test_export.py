"""`finetune export`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.builders.runs import Command

pytestmark = pytest.mark.usefixtures("narrow")


def test_writes_into_the_run_folder_unless_told_otherwise(
    finetune: Command, photos_run: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copytree(photos_run[0], tmp_path / "run")
    code, out, _ = finetune("export", "run", "--variant", "c", "--format", "safetensors")
    wanted = [Path("run/export/C-seed0-safetensors") / name for name in ("model.safetensors", "README.md")]
    assert (code, out.split()) == (0, [str(path) for path in wanted])
    assert all(path.is_file() for path in wanted)
    assert finetune("export", "run", "--variant", "c", "--format", "safetensors", "--out", "x")[0] == 0
    assert sorted(p.name for p in Path("x").iterdir()) == ["README.md", "model.safetensors"]


def test_without_the_extra(
    refused: Callable[..., str],
    photos_run: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    said = refused("export", str(photos_run[0]), "--variant", "b", "--out", str(tmp_path / "x"))
    assert 'run: pip install "finetune[export]"' in said
    assert not (tmp_path / "x").exists()
