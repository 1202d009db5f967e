"""Where the time of a short run goes."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from finetune.cli import app as cli
from finetune.config.experiment import ExperimentConfig
from finetune.errors import ConfigError
from finetune.run.profile import profile_run, stages, stages_table
from finetune.system.signals import StopRequest
from grader.submission.record import results_from
from tests.builders.config import tiny_config
from tests.builders.runs import RecordingReporter

Finished = tuple[Path, Any, dict[str, Any], Any]
RECIPE = ["--subset", "2", "--batch-size", "8", "--image-size", "16", "--lr", "0.02"]
TINY = [*RECIPE, "--device", "cpu", "--workers", "1"]


class TestStages:
    def test_add_up_to_the_total(self, finished: Finished) -> None:
        record = finished[2]
        found = stages(results_from(record))
        assert sum(seconds for _, seconds, _ in found) == pytest.approx(record["timings"]["total_seconds"])
        assert all(seconds > -1e-3 for _, seconds, _ in found)
        assert len({name for name, _, _ in found}) == len(found) == 3 + 4 * 3 + 1

    def test_count_every_image_they_saw(self, finished: Finished) -> None:
        images = {name: n for name, _, n in stages(results_from(finished[2])) if n}
        assert images.pop("decoding, or opening the cache") == 60  # 20 in each split
        assert images == {
            f"{variant} seed 0: {stage}": n
            for variant in "ABC"
            for stage, n in (("training steps", 40), ("evaluation", 80))
        }

    def test_seconds_go_where_they_were_spent(self, finished: Finished) -> None:
        record = copy.deepcopy(finished[2])
        record["runs"] = record["runs"][:1]
        (run,) = record["runs"]
        run["epochs"] = run["epochs"][:1]
        run["epochs"][0].update(train_seconds=5.0, data_wait_seconds=2.0, evaluation_seconds=1.5)
        run["total_seconds"] = 7.5
        record["timings"] = {
            "start_seconds": 1.0,
            "download_seconds": 0.5,
            "decode_seconds": 0.25,
            "total_seconds": 10.0,
        }
        assert [
            (name.removeprefix("A seed 0: "), seconds) for name, seconds, _ in stages(results_from(record))
        ] == [
            ("start-up", 1.0),
            ("download", 0.5),
            ("decoding, or opening the cache", 0.25),
            ("waiting for images", 2.0),
            ("training steps", 3.0),
            ("evaluation", 1.5),
            ("checkpoints and the rest", 1.0),
            ("between variants", 0.75),
        ]
        columns = [list(column.cells) for column in stages_table(results_from(record)).columns]
        assert columns[2][4] == "30.0%"
        assert columns[3][4] == "13"  # 40 images in 3 s
        assert columns[3][0] == ""

    def test_a_run_that_failed_in_its_first_epoch(self, finished: Finished) -> None:
        record = copy.deepcopy(finished[2])
        record["runs"][0].update(epochs=[], status="failed")
        names = [name for name, _, _ in stages(results_from(record))]
        assert "A seed 0: training steps" in names
        assert stages_table(results_from(record)).row_count == len(names)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


class TestProfile:
    def test_shows_every_stage_and_leaves_no_files(self, narrow_weights: Path, temporary: Path) -> None:
        options = ["--preset", "smoke", *TINY, "--weights", str(narrow_weights), "--variants", "a,c"]
        ended = CliRunner().invoke(cli.cli, ["profile", *options])
        assert ended.exit_code == 0, ended.output
        for name in ("start-up", "download", "decoding, or opening the cache", "between variants"):
            assert name in ended.output
        for variant in "AC":
            for stage in ("waiting for images", "training steps", "evaluation", "checkpoints and the rest"):
                assert f"{variant} seed 0: {stage}" in ended.output
        assert "Precision: fp32\n" in ended.output
        assert ended.output.index("Splits: ") < ended.output.index("A seed 0: ")
        assert "Results:" not in ended.output
        assert list(temporary.parent.iterdir()) == [temporary]
        assert not list(temporary.iterdir())

    @pytest.mark.parametrize(("options", "expected"), [([], 2), (["--epochs", "3"], 3)])
    def test_trains_two_epochs_by_default(
        self, monkeypatch: pytest.MonkeyPatch, options: list[str], expected: int
    ) -> None:
        asked: list[int] = []

        def profile_run(config: ExperimentConfig, *_: object) -> dict[str, Any]:
            asked.append(config.recipe.epochs)
            return {"runs": []}

        monkeypatch.setattr("finetune.run.profile.profile_run", profile_run)
        assert CliRunner().invoke(cli.cli, ["profile", "--preset", "smoke", *options]).exit_code == 0
        assert asked == [expected]

    @pytest.mark.usefixtures("narrow")
    def test_names_the_precision_that_was_computed_in(
        self, narrow_weights: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
        for precision, expected in (("fp32", "fp32"), ("auto", "bf16"), ("bf16", "bf16")):
            reporter = RecordingReporter()
            config = tiny_config(
                weights=str(narrow_weights), epochs=1, subset=1, precision=precision, image_size=32
            )
            profile_run(config.pick("c"), reporter, StopRequest())
            assert reporter.said[-1] == f"Precision: {expected}"
        assert not list(temporary.iterdir())

    @pytest.mark.parametrize("option", ["--epochs", "--batch-size"])
    def test_an_option_that_breaks_its_rule(self, monkeypatch: pytest.MonkeyPatch, option: str) -> None:
        monkeypatch.setattr("finetune.run.profile.profile_run", lambda *_: None)
        ended = CliRunner().invoke(cli.cli, ["profile", "--preset", "smoke", option, "0"])
        assert isinstance(ended.exception, ConfigError)
        assert "must be a whole number of at least 1, but 0 was given" in str(ended.exception)
