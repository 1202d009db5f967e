"""The run folder and the results file, from a finished experiment with the real ResNet-18."""

from __future__ import annotations

import copy
import csv
import dataclasses
import getpass
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import numpy as np
import pytest
import safetensors.torch
import torch

from finetune.config.experiment import ExperimentConfig
from finetune.config.presets import load_preset
from finetune.data.datasets import Sample
from finetune.errors import RunFolderError
from finetune.network.network import fingerprint
from finetune.network.resnet18 import resnet18
from finetune.run.folder import RunFolder
from finetune.run.prepare import best_checkpoint
from finetune.run.records import Shard, config_record, predictions_csv, with_absolute_paths
from finetune.training.record import Predictions
from grader.errors import UnusableError
from grader.submission.load import load
from tests.builders.config import tiny_config
from tests.builders.runs import RecordingReporter

Finished = tuple[Path, ExperimentConfig, dict[str, Any], RecordingReporter]


def schema() -> dict[str, Any]:
    return dict(json.loads((resources.files("grader") / "results.schema.json").read_text("utf-8")))


def nodes(value: Any) -> Iterator[Any]:
    yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(part)


@pytest.fixture
def results(finished: Finished) -> dict[str, Any]:
    return dict(json.loads((finished[0] / "results.json").read_text("utf-8")))


class TestSchema:
    def test_itself_is_valid(self) -> None:
        jsonschema.Draft202012Validator.check_schema(schema())

    def test_every_property_is_described_and_nothing_else_is_allowed(self) -> None:
        for node in nodes(schema()):
            if not isinstance(node, dict):
                continue
            if isinstance(node.get("properties"), dict):
                assert node.get("additionalProperties") is False, node.get("description")
                for name, entry in node["properties"].items():
                    assert entry.get("description") or "$ref" in entry, name
            if node.get("type") == "object" and "properties" not in node:
                assert "additionalProperties" in node, node

    def test_the_results_fit(self, results: dict[str, Any]) -> None:
        jsonschema.Draft202012Validator(schema()).validate(results)

    def test_what_does_not_fit_is_not_written(self, finished: Finished, tmp_path: Path) -> None:
        for damage in ({"extra": 1}, {"runs": "none"}, {"tool": {}}):
            with pytest.raises(AssertionError, match="the grader would not accept the results"):
                RunFolder(tmp_path).write_results({**finished[2], **damage})  # type: ignore[typeddict-item]
            assert not (tmp_path / "results.json").exists()

    def test_no_infinities(self, finished: Finished, tmp_path: Path) -> None:
        broken = copy.deepcopy(finished[2])
        broken["runs"][0]["epochs"][0]["val"]["loss_sum"] = float("nan")
        with pytest.raises(ValueError, match="not JSON compliant"):
            RunFolder(tmp_path).write_results(broken)  # type: ignore[arg-type]
        assert not list(tmp_path.iterdir())

    def test_round_trip(self, finished: Finished, results: dict[str, Any], tmp_path: Path) -> None:
        written: Any = copy.deepcopy(finished[2])
        RunFolder(tmp_path).write_results(written)
        assert RunFolder(tmp_path).read() == written
        assert {**written, "created_at": results["created_at"]} == results


class TestContent:
    def test_no_host_no_user_no_path(self, finished: Finished) -> None:
        text = (finished[0] / "results.json").read_text("utf-8")
        strings = [n for n in nodes(json.loads(text)) if isinstance(n, str)]
        assert not [s for s in strings if re.match(r"(/|~|[A-Za-z]:\\)", s)]
        assert str(Path.home()) not in text
        assert str(finished[0]) not in text
        words = {w for s in strings for w in re.findall(r"[\w-]+", s)}
        assert socket.gethostname() not in words
        assert getpass.getuser() not in words

    def test_paths_are_cut_to_their_last_part(self, tmp_path: Path) -> None:
        config = tiny_config(dataset=f"imagefolder:{tmp_path}/pets/", weights=str(tmp_path / "w.pth"))
        record = config_record(config, "official")
        assert (record["dataset"], record["weights"]) == ("imagefolder:pets", "w.pth")
        assert str(tmp_path) not in json.dumps(record)

    def test_runs_in_order(self, results: dict[str, Any]) -> None:
        assert [(r["variant"], r["seed"], r["status"]) for r in results["runs"]] == [
            (name, 0, "completed") for name in "ABC"
        ]

    def test_parameters_trained_and_frozen(self, results: dict[str, Any]) -> None:
        counts = [(r["n_trained"], r["n_frozen"]) for r in results["runs"]]
        assert counts == [(11_181_642, 0), (11_181_642, 0), (8_398_858, 2_782_784)]
        for run in results["runs"]:
            listed = run["trainable_parameters"]
            assert sum(p["count"] for p in listed) == run["n_trained"]
            assert all(p["count"] == np.prod(p["shape"]) for p in listed)
        assert {p["name"].partition(".")[0] for p in results["runs"][2]["trainable_parameters"]} == {
            "layer4",
            "fc",
        }

    def test_the_frozen_part_did_not_change_and_the_start_is_shared(self, results: dict[str, Any]) -> None:
        a, b, c = results["runs"]
        assert all(r["frozen_sha256_before"] == r["frozen_sha256_after"] for r in (a, b, c))
        assert b["initial_sha256"] == c["initial_sha256"] != a["initial_sha256"]
        assert a["frozen_sha256_before"] == b["frozen_sha256_before"] != c["frozen_sha256_before"]

    def test_the_same_budget(self, results: dict[str, Any]) -> None:
        budgets = [r["budget"] for r in results["runs"]]
        assert budgets[0] == budgets[1] == budgets[2]
        assert {k: v for k, v in budgets[0].items() if k != "stream_sha256"} == {
            "epochs": 2,
            "steps": 6,
            "images": 40,
        }

    def test_data_set(self, results: dict[str, Any]) -> None:
        data = results["dataset"]
        assert (data["name"], data["classes"]) == ("digits", list("0123456789"))
        for split in data["splits"].values():
            assert (split["n_samples"], split["class_counts"]) == (20, [2] * 10)

    def test_weights(self, results: dict[str, Any]) -> None:
        assert results["weights"]["kind"] == "bundled"
        assert results["weights"]["sha256"].startswith("c5c515f6a17b")

    def test_times(self, results: dict[str, Any]) -> None:
        assert all(v >= 0 for v in results["timings"].values())
        for run in results["runs"]:
            parts = sum(e["train_seconds"] + e["evaluation_seconds"] for e in run["epochs"])
            assert 0 < parts <= run["total_seconds"]
            images = sum(e["train"]["n_samples"] for e in run["epochs"])
            seconds = sum(e["train_seconds"] for e in run["epochs"])
            assert run["images_per_second"] == pytest.approx(images / seconds)
            assert run["peak_memory_bytes"] > 50_000_000


class TestFolder:
    def test_holds_these_files_and_no_others(self, finished: Finished) -> None:
        names = {p.relative_to(finished[0]).as_posix() for p in finished[0].rglob("*") if p.is_file()}
        assert names - {".lock"} == {
            "results.json",
            "config.toml",
            "report.html",
            *(f"checkpoints/{v}-seed0.safetensors" for v in "ABC"),
            *(f"predictions/{v}-seed0-{s}.csv" for v in "ABC" for s in ("val", "test")),
        }

    def test_config_is_the_resolved_one(self, finished: Finished) -> None:
        recipe = dataclasses.replace(finished[1].recipe, statistics="reestimated")  # 2 epochs have few steps
        resolved = with_absolute_paths(dataclasses.replace(finished[1], precision="fp32", recipe=recipe))
        assert load_preset(str(finished[0] / "config.toml")) == resolved

    def test_artifacts_have_their_hashes(self, finished: Finished, results: dict[str, Any]) -> None:
        for run in results["runs"]:
            for artifact in run["artifacts"].values():
                content = (finished[0] / artifact["path"]).read_bytes()
                assert hashlib.sha256(content).hexdigest() == artifact["sha256"]

    def test_predictions_are_the_chosen_epochs(self, finished: Finished, results: dict[str, Any]) -> None:
        for run in results["runs"]:
            best = run["epochs"][run["best_epoch"] - 1]
            for split in ("val", "test"):
                with (finished[0] / run["artifacts"][f"{split}_predictions"]["path"]).open(
                    newline=""
                ) as file:
                    rows = list(csv.DictReader(file))
                assert len(rows) == best[split]["n_samples"]
                assert sum(r["label"] == r["predicted"] for r in rows) == best[split]["n_correct"]
                assert sum(float(r["nll"]) for r in rows) == pytest.approx(best[split]["loss_sum"], rel=1e-6)

    def test_checkpoints_are_the_chosen_networks(self, finished: Finished, results: dict[str, Any]) -> None:
        run = results["runs"][2]
        state = safetensors.torch.load_file(finished[0] / run["artifacts"]["checkpoint"]["path"])
        network = resnet18(10, ("layer4", "fc"))
        network.load_state_dict(state)
        assert network.frozen_sha256() == run["frozen_sha256_before"]
        assert fingerprint(state) != run["initial_sha256"]
        assert all(torch.isfinite(t).all() for t in state.values() if t.is_floating_point())

    @pytest.mark.parametrize("name", ["results.json", "anything"])
    def test_a_folder_in_use_is_not_begun_again(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).touch()
        with pytest.raises(RunFolderError, match=rf"has content \({name}\); name another one\."):
            RunFolder(tmp_path).begin(tiny_config())
        assert [p.name for p in tmp_path.iterdir()] == [name]

    def test_a_folder_with_only_a_lock_is_empty(self, tmp_path: Path) -> None:
        (tmp_path / ".lock").touch()
        RunFolder(tmp_path).require_new()
        RunFolder(tmp_path / "none").require_new()
        RunFolder(tmp_path).begin(tiny_config())
        assert RunFolder(tmp_path).config() == with_absolute_paths(tiny_config())
        with pytest.raises(RunFolderError, match="or resume its run: finetune train --resume"):
            RunFolder(tmp_path).begin(tiny_config())


class TestPaths:
    """Paths in config.toml mean the same from any working directory."""

    def test_are_stored_absolute(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        config = tiny_config(dataset="imagefolder:~/pets", data_root="data", weights="../own.pth")
        RunFolder(tmp_path / "run").begin(config)
        monkeypatch.chdir("/")
        written = RunFolder(tmp_path / "run").config()
        assert written.dataset == f"imagefolder:{tmp_path}/home/pets"
        assert written.data_root == f"{tmp_path}/data"
        assert Path(written.weights).resolve() == tmp_path.parent / "own.pth"

    @pytest.mark.parametrize("name", ["imagenet", "bundled"])
    def test_names_stay_names(self, tmp_path: Path, name: str) -> None:
        RunFolder(tmp_path).begin(tiny_config(dataset="flowers102", weights=name))
        written = RunFolder(tmp_path).config()
        assert (written.dataset, written.weights) == ("flowers102", name)


class TestRead:
    """A copy of the finished run, changed; the grader and finetune refuse the same files."""

    @pytest.fixture
    def folder(self, finished: Finished, tmp_path: Path) -> RunFolder:
        return RunFolder(Path(shutil.copytree(finished[0], tmp_path / "run")))

    def test_of_a_folder_without_results(self, tmp_path: Path) -> None:
        assert not RunFolder(tmp_path).has_results()
        with pytest.raises(RunFolderError, match=r"must be a run folder with a results\.json"):
            RunFolder(tmp_path).read()

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b'{"runs": []}',
            b"[" * 100_000,
            b'{"a": NaN}',
            b"\xef\xbb\xbf{}",
            b'{"a": 1, "a": 2}',
            b"[" + b"0," * 100_001 + b"0]",
            b" " * (8 << 20) + b"{}",
        ],
        ids=lambda content: repr(content[:12]),
    )
    def test_refuses_what_the_grader_refuses(self, folder: RunFolder, content: bytes) -> None:
        folder.results_file.write_bytes(content)
        with pytest.raises(UnusableError):
            load(folder.path)
        with pytest.raises(
            RunFolderError, match=r"must be a results file that finetune wrote \(.*\); restore it, or"
        ) as caught:
            folder.read()
        assert "\n" not in str(caught.value)

    def test_refuses_a_link_and_a_pipe(self, folder: RunFolder, tmp_path: Path) -> None:
        folder.results_file.rename(tmp_path / "elsewhere.json")
        folder.results_file.symlink_to(tmp_path / "elsewhere.json")
        with pytest.raises(RunFolderError, match="symbolic link"):
            folder.read()
        folder.results_file.unlink()
        os.mkfifo(folder.results_file)
        with pytest.raises(RunFolderError, match="not a regular file"):
            folder.read()

    @pytest.mark.parametrize("path", ["../x", "/etc/hostname", "a/../../x", "link/x"])
    def test_artifacts_lie_inside_the_folder(self, folder: RunFolder, tmp_path: Path, path: str) -> None:
        (folder.path / "link").symlink_to(tmp_path)
        with pytest.raises(RunFolderError, match="must be inside its folder"):
            folder.artifact_file(path)

    def test_shard_as_written(self, tmp_path: Path) -> None:
        assert RunFolder(tmp_path).shard() is None
        shard = Shard((("A", 0), ("C", 1)), local_size=2)
        RunFolder(tmp_path).begin(tiny_config(), shard)
        assert RunFolder(tmp_path).shard() == shard

    @pytest.mark.parametrize("content", ["", "[]", '{"pairs": 3}', '{"pairs": [["A"]]}', "[" * 100_000])
    def test_a_damaged_shard_file(self, tmp_path: Path, content: str) -> None:
        RunFolder(tmp_path).shard_file.write_text(content)
        with pytest.raises(RunFolderError, match=r"shard\.json must be a file that finetune wrote"):
            RunFolder(tmp_path).shard()


class TestRoom:
    def test_what_a_resumed_job_has_written_needs_no_space_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        free = 100 << 20
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
        with pytest.raises(RunFolderError, match="needs 519 MB of disk space"):
            RunFolder(tmp_path).check_room(3)
        (tmp_path / "state").mkdir()
        with (tmp_path / "state" / "A-seed0").open("wb") as file:
            file.truncate(450 << 20)
        RunFolder(tmp_path).check_room(3)
        free = 50 << 20
        with pytest.raises(RunFolderError, match=r"needs 94\.4 MB of disk space"):
            RunFolder(tmp_path).check_room(3)


class TestReadOnly:
    def test_writes_locks_and_removes_nothing(self, finished: Finished, tmp_path: Path) -> None:
        document: Any = copy.deepcopy(finished[2])
        folder = RunFolder(tmp_path, writes=False)
        (tmp_path / "state").mkdir()
        folder.check_room(10**9)
        folder.require_new()
        with folder.locked(), RunFolder(tmp_path).locked():
            folder.begin(tiny_config())
            folder.write_identity(document)
            folder.write_results(document)
            folder.remove_state()
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "state"]


class TestBestCheckpoint:
    def edited(self, finished: Finished, tmp_path: Path, n_correct: dict[str, int | None]) -> RunFolder:
        """The finished run with these numbers of correct validation images; None is a failed run."""
        document: Any = copy.deepcopy(finished[2])
        for run in document["runs"]:
            best = n_correct[run["variant"]]
            if best is None:
                run |= {"status": "failed", "failure": "x", "best_epoch": None, "artifacts": None}
            else:
                run["best_epoch"] = 2
                run["epochs"][0]["val"]["n_correct"] = 20
                run["epochs"][1]["val"]["n_correct"] = best
        RunFolder(tmp_path).write_results(document)
        return RunFolder(tmp_path)

    @pytest.mark.parametrize(
        ("n_correct", "winner"), [({"A": 5, "B": 9, "C": 8}, "B"), ({"A": None, "B": 3, "C": 3}, "B")]
    )
    def test_is_the_one_with_the_highest_validation_accuracy(
        self, finished: Finished, tmp_path: Path, n_correct: dict[str, int | None], winner: str
    ) -> None:
        folder = self.edited(finished, tmp_path, n_correct)
        assert best_checkpoint(folder) == tmp_path / "checkpoints" / f"{winner}-seed0.safetensors"

    def test_needs_a_finished_run(self, finished: Finished, tmp_path: Path) -> None:
        folder = self.edited(finished, tmp_path, dict.fromkeys("ABC"))
        with pytest.raises(RunFolderError, match="must have a finished run"):
            best_checkpoint(folder)


def test_predictions_give_every_float_back_exactly() -> None:
    rng = np.random.default_rng(0)
    nll = np.exp(rng.normal(0, 20, 1000)).astype(np.float32)
    confidence = rng.uniform(0.2, 1, 1000).astype(np.float32)
    samples = [Sample(f'a,"{i}\n', i % 3, np.zeros((1, 1), dtype=np.uint8)) for i in range(1000)]
    text = predictions_csv(samples, Predictions(np.arange(1000) % 5, nll, confidence)).decode()
    rows = list(csv.DictReader(text.splitlines(keepends=True)))
    assert [r["sample_id"] for r in rows] == [s.id for s in samples]
    assert [int(r["label"]) for r in rows] == [s.label for s in samples]
    assert [int(r["predicted"]) for r in rows] == [i % 5 for i in range(1000)]
    np.testing.assert_array_equal(np.array([np.float32(r["nll"]) for r in rows]), nll)
    np.testing.assert_array_equal(np.array([np.float32(r["confidence"]) for r in rows]), confidence)
