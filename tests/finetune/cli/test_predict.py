"""`finetune predict`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.builders.images import photo
from tests.builders.runs import Command

pytestmark = pytest.mark.usefixtures("narrow")


def test_lists_files_and_says_which_cannot_be_read(
    finetune: Command, photos_run: tuple[Path, Path], tmp_path: Path
) -> None:
    photo(tmp_path / "in" / "good.png", 1)
    good = finetune("predict", str(photos_run[0]), "in", "--variant", "b", "--format", "json")
    assert good[0] == 0
    assert json.loads(good[1])["path"] == "in/good.png"
    assert good[2] == ""
    (tmp_path / "in" / "bad\x1b.png").write_bytes(b"x")
    code, out, err = finetune("predict", str(photos_run[0]), "in", "--variant", "b", "--top", "1")
    assert code == 1
    assert len(out.splitlines()) == 1
    assert err.splitlines()[-1] == "Cannot read in/bad\\x1b.png: not an image."


def test_writes_a_file_when_it_is_complete(
    finetune: Command, photos_run: tuple[Path, Path], tmp_path: Path
) -> None:
    photo(tmp_path / "x.png", 1)
    command = ["predict", str(photos_run[0]), "--variant", "c", "--format", "csv", "--out", "deep/p.csv"]
    code, out, _ = finetune(*command, "x.png")
    assert (code, out) == (0, "")
    assert (tmp_path / "deep" / "p.csv").read_text().startswith("path,rank,class,probability\nx.png,1,")
    (tmp_path / "deep" / "p.csv").unlink()
    (tmp_path / "empty").mkdir()
    code, _, err = finetune(*command, "empty")
    assert (code, "none was found" in err) == (2, True)
    assert list((tmp_path / "deep").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nowhere.png"], "nothing at nowhere.png"),
        (["x.png", "--variant", "a"], "variant must be one of B, C"),
    ],
)
def test_is_refused(
    refused: Callable[..., str],
    photos_run: tuple[Path, Path],
    tmp_path: Path,
    arguments: list[str],
    problem: str,
) -> None:
    photo(tmp_path / "x.png", 1)
    assert problem in refused("predict", str(photos_run[0]), *arguments)
