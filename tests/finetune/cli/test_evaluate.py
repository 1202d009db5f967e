"""`finetune evaluate`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from grader.load import load
from grader.rerun import rerun
from tests.builders.images import image_tree
from tests.builders.runs import Command
from tests.compare_runs import file_digests

Copy = Callable[[Path, int], dict[str, Any] | None]


@pytest.mark.usefixtures("narrow")
def test_recomputes_the_predictions(
    finetune: Command, refused: Callable[..., str], stopped_at: Copy, tmp_path: Path
) -> None:
    stopped_at(tmp_path / "run", 10**9)
    assert finetune("evaluate", "run", "--output", "fresh", "--device", "cpu")[0] == 0
    assert file_digests(tmp_path / "fresh") == file_digests(tmp_path / "run" / "predictions")
    checkpoint = tmp_path / "run" / "checkpoints" / "A-seed0.safetensors"
    checkpoint.write_bytes((tmp_path / "run" / "checkpoints" / "C-seed0.safetensors").read_bytes())
    assert "SHA-256" in refused("evaluate", "run", "--output", "again", "--device", "cpu")
    (tmp_path / "run" / "results.json").unlink()
    assert "results.json" in refused("evaluate", "run", "--output", "again")


@pytest.mark.usefixtures("narrow")
def test_computes_with_as_many_threads_as_asked(
    finetune: Command, stopped_at: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    stopped_at(tmp_path / "run", 10**9)
    asked.clear()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert finetune("evaluate", "run", "--output", "one", "--device", "cpu")[0] == 0
    assert finetune("evaluate", "run", "--output", "two", "--device", "cpu", "--threads", "2")[0] == 0
    assert asked == [3, 2]


def test_zero_threads(refused: Callable[..., str]) -> None:
    said = refused("evaluate", "run", "--output", "out", "--threads", "0")
    assert said == "threads must be a whole number from 1 to 1024, but 0 was given."


class TestImageFolder:
    """The results do not say where it is; config.toml does. Only `finetune evaluate` asks it."""

    @pytest.fixture
    def run(self, experiment: Callable[..., dict[str, Any]], tmp_path: Path) -> Path:
        image_tree(tmp_path / "pets", {"a": 9, "b": 9})
        experiment(tmp_path / "run", dataset=f"imagefolder:{tmp_path / 'pets'}", epochs=1)
        return tmp_path / "run"

    def test_is_found_where_the_run_found_it(self, finetune: Command, run: Path) -> None:
        assert finetune("evaluate", "run", "--output", "fresh", "--device", "cpu")[0] == 0
        assert file_digests(run.parent / "fresh") == file_digests(run / "predictions")

    @pytest.mark.parametrize(
        "edited", ['dataset = "imagefolder:/etc"', 'dataset = "digits"', "damaged", None]
    )
    def test_must_be_named_where_the_configuration_does_not(
        self, refused: Callable[..., str], run: Path, edited: str | None
    ) -> None:
        (run / "config.toml").unlink() if edited is None else (run / "config.toml").write_text(edited)
        said = refused("evaluate", "run", "--output", "fresh", "--device", "cpu")
        assert said.endswith("give it with --dataset imagefolder:PATH.")

    def test_the_grader_takes_no_path_from_a_submission(self, run: Path) -> None:
        assert (run / "config.toml").is_file()
        assert "give it with --dataset imagefolder:PATH." in rerun(load(run)).failure
