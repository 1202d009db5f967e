"""`finetune merge`: what it is given, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.builders.runs import Command

Copy = Callable[[Path, int], dict[str, Any] | None]
Refused = Callable[..., str]


def test_a_folder_without_results(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty must be a run folder with a results.json, but" in refused("merge", "empty", "--out", "out")
    assert not (tmp_path / "out").exists()


def test_needs_run_folders_and_a_new_one(refused: Refused) -> None:
    assert "Missing argument 'RUNS...'" in refused("merge", "--out", "x")
    assert "Missing option '--out'" in refused("merge", "run")


@pytest.mark.parametrize(("status", "expected"), [("completed", 0), ("failed", 1)])
def test_the_exit_code_is_that_of_the_runs(
    finetune: Command, monkeypatch: pytest.MonkeyPatch, status: str, expected: int
) -> None:
    monkeypatch.setattr("finetune.run.merge.merge_runs", lambda *_: {"runs": [{"status": status}]})
    assert finetune("merge", "run", "--out", "out")[0] == expected


def test_a_damaged_file_is_named(refused: Refused, stopped_at: Copy, tmp_path: Path) -> None:
    stopped_at(tmp_path / "run", 10**9)
    record = json.loads((tmp_path / "run" / "results.json").read_text("utf-8"))
    del record["dataset"]
    (tmp_path / "run" / "results.json").write_text(json.dumps(record), "utf-8")
    assert "'dataset' is missing" in refused("merge", "run", "--out", "out")
