"""The comparison of run folders finds every difference but times."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.compare_runs import main
from tests.grader.honest import write_run

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def runs(tmp_path: Path) -> tuple[str, str]:
    """A simulated run and its copy."""
    one = write_run(tmp_path / "one")
    (one / "config.toml").write_text('preset = "smoke"\n')
    return str(one), str(shutil.copytree(one, tmp_path / "two"))


def edit(run: str, change: Edit) -> None:
    path = Path(run) / "results.json"
    document = json.loads(path.read_text("utf-8"))
    change(document)
    path.write_text(json.dumps(document), "utf-8")


@pytest.mark.parametrize(
    "change",
    [
        dict,
        lambda d: d.update(created_at="2027-01-01T00:00:00Z"),
        lambda d: d["runs"][0]["epochs"][1].update(train_seconds=99.0),
        lambda d: d["runs"][2].update(images_per_second=1.0, peak_memory_bytes=1),
    ],
)
def test_only_times_differ(runs: tuple[str, str], change: Edit, capsys: pytest.CaptureFixture[str]) -> None:
    edit(runs[1], change)
    (Path(runs[1]) / "report.html").write_bytes(b"drawn again")
    assert main(runs) == 0
    first, *digests = capsys.readouterr().out.splitlines()
    assert first == "identical"
    assert [line.split("  ")[1] for line in digests] == [
        f"predictions/{variant}-seed0-{split}.csv" for variant in "ABC" for split in ("test", "val")
    ]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda d: d["runs"][1].update(best_epoch=1), "results.json runs[1] best_epoch: 4, 1"),
        (lambda d: d["runs"][1].pop("n_frozen"), "results.json runs[1] n_frozen: 0, nothing"),
        (lambda d: d["dataset"].update(classes=[]), "results.json dataset classes: "),
    ],
)
def test_a_value_differs(
    runs: tuple[str, str], change: Edit, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(runs[1], change)
    assert main(runs) == 1
    assert capsys.readouterr().out.splitlines()[0].startswith(line)


def test_a_file_differs_and_one_is_missing(runs: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    predictions = Path(runs[1]) / "predictions" / "A-seed0-test.csv"
    predictions.write_bytes(predictions.read_bytes().replace(b",0,", b",1,", 1))
    (Path(runs[1]) / "config.toml").unlink()
    assert main(runs) == 1
    config, changed, *digests = capsys.readouterr().out.splitlines()
    assert config.startswith("config.toml: ")
    assert config.endswith(", nothing")
    assert changed.startswith("predictions/A-seed0-test.csv: ")
    assert len(digests) == 5


@pytest.mark.parametrize("arguments", [[], ["one"], ["no", "folders"]])
def test_anything_else_is_explained(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "RUN_A RUN_B" in capsys.readouterr().out
