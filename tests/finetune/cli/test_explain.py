"""`finetune explain`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.builders.images import photo
from tests.builders.runs import Command

pytestmark = pytest.mark.usefixtures("narrow")


class _WithoutCaptum:
    """Finds modules as where captum is not installed."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name.partition(".")[0] == "captum":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_writes_a_picture(finetune: Command, photos_run: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("captum", reason="pip install 'finetune[explain]'")
    photo(tmp_path / "in" / "x.png", 1)
    code, out, err = finetune("explain", str(photos_run[0]), "in/x.png", "--variant", "b", "--class", "dog")
    assert code == 0
    assert out.startswith("dog ")
    assert out.endswith("%: x-B.png\n")
    assert "The map is of layer2" in err
    with Image.open(tmp_path / "x-B.png") as picture:
        assert picture.format == "PNG"


def test_without_the_extra(
    refused: Callable[..., str],
    photos_run: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photo(tmp_path / "x.png", 1)
    for name in [name for name in sys.modules if name.partition(".")[0] == "captum"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_WithoutCaptum, *sys.meta_path])
    said = refused("explain", str(photos_run[0]), "x.png", "--variant", "b")
    assert 'run: pip install "finetune[explain]"' in said
