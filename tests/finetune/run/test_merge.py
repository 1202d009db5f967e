"""Shards joined: the same as one process would have left, or one sentence why not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.config.experiment import STANDARD_VARIANTS
from finetune.config.presets import load_preset
from finetune.errors import ConfigError, FinetuneError, RunFolderError
from finetune.run import experiment
from finetune.run.experiment import run_experiment
from finetune.run.merge import merge_runs
from finetune.system.signals import StopRequest
from grader.findings import Status
from grader.grading.grade import Job, grade
from grader.grading.policy import load_policy
from tests.builders.config import tiny_config
from tests.builders.networks import use_narrow_network
from tests.builders.runs import RecordingReporter
from tests.compare_runs import file_digests, without_times

A, B, C = STANDARD_VARIANTS


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "write_report", lambda _, path: path.write_bytes(b"a page"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, narrow_file: Path) -> Path:
    """`whole`: A and C with seeds 0 and 1; `a` and `c`: one of them alone. Not to be changed."""
    root = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_narrow_network(monkeypatch, draw=False)
        for name, variants in (("whole", (A, C)), ("a", (A,)), ("c", (C,))):
            config = tiny_config(weights=str(narrow_file), variants=variants, seeds=2)
            run_experiment(config, root / name, RecordingReporter(), StopRequest())
    return root


@pytest.fixture
def shards(trained: Path, tmp_path: Path) -> list[Path]:
    """Copies of `a` and `c`."""
    return [Path(shutil.copytree(trained / name, tmp_path / name)) for name in ("a", "c")]


@pytest.fixture
def dealt(trained: Path, tmp_path: Path) -> list[Path]:
    """The whole experiment as three processes leave it: each has the whole configuration and some runs."""
    shards = []
    for rank in range(3):
        shard = Path(shutil.copytree(trained / "whole", tmp_path / "out" / f"shard-{rank:03d}"))
        edit(shard, lambda record, rank=rank: record.update(runs=record["runs"][rank::3]))  # type: ignore[misc]
        shards.append(shard)
    return shards


def results(run: Path) -> dict[str, Any]:
    return json.loads((run / "results.json").read_text("utf-8"))  # type: ignore[no-any-return]


def edit(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = results(run)
    change(record)
    (run / "results.json").write_text(json.dumps(record), "utf-8")


class TestJoined:
    def test_is_what_one_process_leaves(self, trained: Path, shards: list[Path], tmp_path: Path) -> None:
        merge_runs(shards, tmp_path / "out", RecordingReporter())
        assert without_times(results(tmp_path / "out")) == without_times(results(trained / "whole"))
        assert file_digests(tmp_path / "out") == file_digests(trained / "whole")
        assert (tmp_path / "out" / "report.html").is_file()

    def test_is_what_one_process_leaves_in_the_folder_of_the_shards(
        self, trained: Path, dealt: list[Path], tmp_path: Path
    ) -> None:
        for _ in range(2):  # merging again changes nothing
            merge_runs(dealt, tmp_path / "out", RecordingReporter())
            assert without_times(results(tmp_path / "out")) == without_times(results(trained / "whole"))
            shards = tuple(p.relative_to(tmp_path / "out").as_posix() for d in dealt for p in d.rglob("*"))
            skipped = ("results.json", ".lock", "report.html", *shards)
            assert file_digests(tmp_path / "out", skipped) == file_digests(trained / "whole")

    def test_is_graded_as_what_one_process_leaves(
        self, trained: Path, shards: list[Path], tmp_path: Path
    ) -> None:
        merge_runs(shards, tmp_path / "out", RecordingReporter())
        policy = load_policy("default")
        whole, joined = (grade(Job(run, "run", policy)) for run in (trained / "whole", tmp_path / "out"))
        assert not joined.problems
        assert joined.findings["times-add-up"].status is Status.HOLDS
        statuses = [{name: f.status for name, f in g.findings.items()} for g in (whole, joined)]
        assert statuses[0] == statuses[1]

    def test_adds_up_seconds(self, shards: list[Path], tmp_path: Path) -> None:
        for number, shard in enumerate(shards):
            edit(shard, lambda record, number=number: record["timings"].update(decode_seconds=number + 1.5))  # type: ignore[misc]
        assert merge_runs(shards, tmp_path / "out", RecordingReporter())["timings"]["decode_seconds"] == 4.0

    def test_keeps_weights_and_order_whatever_comes_first(self, dealt: list[Path], tmp_path: Path) -> None:
        record = merge_runs(dealt[::-1], tmp_path / "out", RecordingReporter())
        assert record["weights"]["kind"] == "file"
        assert [(r["variant"], r["seed"]) for r in record["runs"]] == [("A", 0), ("C", 0), ("A", 1), ("C", 1)]

    def test_takes_the_order_of_the_longest_list(
        self, trained: Path, shards: list[Path], tmp_path: Path
    ) -> None:
        shutil.copytree(trained / "whole", tmp_path / "rest")
        edit(tmp_path / "rest", lambda record: record.update(runs=record["runs"][:2]))
        edit(shards[1], lambda record: record.update(runs=record["runs"][1:]))
        edit(shards[0], lambda record: record.update(runs=record["runs"][1:]))
        merge_runs([shards[1], shards[0], tmp_path / "rest"], tmp_path / "out", RecordingReporter())
        assert [v.name for v in load_preset(str(tmp_path / "out" / "config.toml")).variants] == ["A", "C"]

    def test_keeps_failed_runs(self, shards: list[Path], tmp_path: Path) -> None:
        failed = {"status": "failed", "failure": "It diverged.", "artifacts": None}
        edit(shards[0], lambda record: record["runs"][1].update(best_epoch=None, epochs=[], **failed))
        record = merge_runs(shards, tmp_path / "out", RecordingReporter())
        assert [run["artifacts"] is None for run in record["runs"]] == [False, False, True, False]

    def test_reports_the_outcome(self, shards: list[Path], tmp_path: Path) -> None:
        reporter = RecordingReporter()
        merge_runs(shards, tmp_path / "out", reporter)
        assert f"grader {tmp_path / 'out'}" in reporter.said[-1]


class TestRefused:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda r: r["tool"].update(version="9.9"), r"one version of finetune.*tool\.version was"),
            (
                lambda r: r["environment"].update(device_name="Other"),
                r"times are compared.*environment\.device_name was .* is \"Other\"",
            ),
            (lambda r: r["environment"].update(cpu_cores=99), r"environment\.cpu_cores was .* is 99"),
            (lambda r: r["config"].update(subset=9), r"same settings.*config\.subset was 2 and is 9"),
            (
                lambda r: r["dataset"]["splits"]["test"].update(fingerprint="0" * 64),
                r"one --split-seed; with --resplit, also with the same --seeds",
            ),
        ],
    )
    def test_what_is_not_alike(
        self,
        shards: list[Path],
        tmp_path: Path,
        change: Callable[[dict[str, Any]], object],
        message: str,
    ) -> None:
        edit(shards[1], change)
        self.refused(shards, tmp_path / "out", message)

    def test_other_weights(self, dealt: list[Path], tmp_path: Path) -> None:
        edit(dealt[2], lambda record: record["weights"].update(sha256="0" * 64))
        self.refused(dealt, tmp_path / "joined", r"same weights, but from .*-000 to .*-002 weights\.sha256")

    def test_other_meanings_of_a_variant(self, dealt: list[Path], tmp_path: Path) -> None:
        edit(dealt[1], lambda record: record["config"]["variants"][1].update(lr=0.5))
        self.refused(dealt, tmp_path / "joined", r"but C is .*null.* in one and .*0\.5.* in another")

    def test_a_pair_that_is_there_twice(self, shards: list[Path], tmp_path: Path) -> None:
        self.refused(
            [*shards, shards[0]], tmp_path / "out", "each variant and seed only once, but A seed 0 is in"
        )

    def test_pairs_that_are_missing(self, dealt: list[Path], tmp_path: Path) -> None:
        self.refused(dealt[1:], tmp_path / "joined", "these are missing: A seed 0, C seed 1; let them finish")

    def test_seeds_with_a_gap(self, shards: list[Path], tmp_path: Path) -> None:
        edit(shards[0], lambda record: record["config"].update(seeds=[0, 1, 5]))
        self.refused(shards, tmp_path / "out", "must be consecutive, but they are 0, 1, 5;")

    def test_a_configuration_that_is_not_the_results(self, shards: list[Path], tmp_path: Path) -> None:
        path = shards[0] / "config.toml"
        path.write_text(path.read_text().replace("epochs = 2", "epochs = 3"))
        self.refused(shards, tmp_path / "out", r"config\.recipe\.epochs was 2 and is 3")

    def test_no_configuration(self, shards: list[Path], tmp_path: Path) -> None:
        (shards[0] / "config.toml").unlink()
        with pytest.raises(ConfigError, match=r"config\.toml cannot be read"):
            merge_runs(shards, tmp_path / "out", RecordingReporter())

    @pytest.mark.parametrize("content", [None, "{", "[]", '{"runs": []}'])
    def test_no_results(self, shards: list[Path], tmp_path: Path, content: str | None) -> None:
        (shards[1] / "results.json").unlink()
        if content is not None:
            (shards[1] / "results.json").write_text(content)
        self.refused(shards, tmp_path / "out", r"results\.json")

    def test_a_best_epoch_that_does_not_exist(self, shards: list[Path], tmp_path: Path) -> None:
        edit(shards[1], lambda record: record["runs"][0].update(best_epoch=7))
        self.refused(shards, tmp_path / "out", "C-seed0 has no epoch 7")

    @pytest.mark.parametrize("path", ["checkpoints/C-seed1.safetensors", "predictions/C-seed0-val.csv"])
    def test_a_file_that_is_gone_or_another(self, shards: list[Path], tmp_path: Path, path: str) -> None:
        (shards[1] / path).write_bytes(b"other")
        self.refused(shards, tmp_path / "out", "does not match its recorded SHA-256")
        (shards[1] / path).unlink()
        self.refused(shards, tmp_path / "out", "Cannot read .*put it back or train again")

    @pytest.mark.parametrize("path", ["../whole.csv", "/etc/hostname", "link/whole.csv"])
    def test_a_path_that_climbs_out(self, shards: list[Path], tmp_path: Path, path: str) -> None:
        (tmp_path / "whole.csv").write_bytes(b"")
        (shards[1] / "link").symlink_to(tmp_path)
        edit(shards[1], lambda record: record["runs"][0]["artifacts"]["checkpoint"].update(path=path))
        self.refused(
            shards,
            tmp_path / "out",
            "passes through a symbolic link|must be a results file that finetune wrote",
        )

    def test_a_folder_with_other_content(self, shards: list[Path], tmp_path: Path) -> None:
        (tmp_path / "used").mkdir()
        (tmp_path / "used" / "mine.txt").touch()
        with pytest.raises(RunFolderError, match=r"has content \(mine\.txt\)"):
            merge_runs(shards, tmp_path / "used", RecordingReporter())
        with pytest.raises(RunFolderError, match="has content"):
            merge_runs(shards, shards[0], RecordingReporter())

    def test_a_folder_of_it_that_is_a_link(self, shards: list[Path], tmp_path: Path) -> None:
        merge_runs(shards, tmp_path / "out", RecordingReporter())
        shutil.rmtree(tmp_path / "out" / "predictions")
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "out" / "predictions").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(FinetuneError, match="must be inside its folder"):
            merge_runs(shards, tmp_path / "out", RecordingReporter())
        assert not list((tmp_path / "elsewhere").iterdir())

    def refused(self, shards: list[Path], out: Path, message: str) -> None:
        with pytest.raises(FinetuneError, match=message) as caught:
            merge_runs(shards, out, RecordingReporter())
        assert str(caught.value).endswith(".")
        assert "\n" not in str(caught.value)
        assert not out.exists()
