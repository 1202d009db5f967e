"""Whole experiments with a narrow network: repeatable, resumable, and resumed only with the same input."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch

from finetune.config.experiment import STANDARD_VARIANTS
from finetune.errors import (
    BadImagesError,
    ConfigError,
    DataError,
    FinetuneError,
    RunFolderError,
    WeightsError,
)
from finetune.evidence.reevaluate import evaluate_run
from finetune.run import environment, fit
from finetune.run import experiment as experiment_module
from finetune.run.experiment import run_experiment
from finetune.run.folder import RunFolder
from finetune.run.gradable import VALUES_PER_EPOCH, VALUES_PER_RUN, n_values_of
from finetune.run.records import Shard
from finetune.system import host
from finetune.system.files import locked
from finetune.system.signals import Stopped, StopRequest
from finetune.training import trainer
from finetune.training.evaluate import logits_of
from tests.builders.config import tiny_config
from tests.builders.images import image_tree, photo
from tests.builders.runs import RecordingReporter, StopAt
from tests.compare_runs import file_digests, without_times

A, B, C = STANDARD_VARIANTS
Run = Callable[..., dict[str, Any]]
Finished = tuple[Path, Any, dict[str, Any], Any]


Copy = Callable[[Path, int], dict[str, Any] | None]
NEVER = 10**9


class TestWhole:
    def test_calibration_from_kept_logits_is_that_of_recomputed_ones(
        self, experiment: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        computed: list[None] = []

        def counting(*given: Any) -> Iterator[torch.Tensor]:
            computed.append(None)
            return logits_of(*given)

        monkeypatch.setattr(fit, "logits_of", counting)
        kept = experiment(tmp_path / "kept")
        assert not computed
        monkeypatch.setattr(trainer, "LOGITS_BYTES", 0)
        recomputed = experiment(tmp_path / "recomputed")
        assert len(computed) == 2 * len(recomputed["runs"])
        assert [r["calibration"] for r in kept["runs"]] == [r["calibration"] for r in recomputed["runs"]]

    def test_two_runs_are_the_same_but_for_times(self, experiment: Run, tmp_path: Path) -> None:
        one, two = experiment(tmp_path / "1"), experiment(tmp_path / "2", workers=3)
        assert without_times(one) == without_times(two)
        assert file_digests(
            tmp_path / "1", (".lock", "results.json", "report.html", "config.toml")
        ) == file_digests(tmp_path / "2", (".lock", "results.json", "report.html", "config.toml"))

    def test_files_are_the_same_to_the_byte(self, experiment: Run, tmp_path: Path) -> None:
        for name in ("1", "2"):
            experiment(tmp_path / name, variants=(A, C))
        assert file_digests(tmp_path / "1") == file_digests(tmp_path / "2")
        assert not (tmp_path / "1" / "state").exists()

    def test_other_seeds(self, experiment: Run, tmp_path: Path) -> None:
        record = experiment(tmp_path / "run", variants=(A, C), seed=4, seeds=2)
        assert [(r["variant"], r["seed"]) for r in record["runs"]] == [("A", 4), ("C", 4), ("A", 5), ("C", 5)]
        streams = [r["budget"]["stream_sha256"] for r in record["runs"]]
        assert streams[0] == streams[1] != streams[2] == streams[3]
        starts = [r["initial_sha256"] for r in record["runs"]]
        assert len(set(starts)) == 4 or starts[1] == starts[3]

    def test_reports_a_variants_own_learning_rate(self, experiment: Run, tmp_path: Path) -> None:
        record = experiment(tmp_path / "run", variants=(A, dataclasses.replace(C, lr=0.25)))
        assert [r["learning_rate"] for r in record["runs"]] == [0.02, 0.25]

    def test_random_starts_need_no_weights(self, narrow: None, tmp_path: Path) -> None:  # noqa: ARG002
        config = tiny_config(variants=(A,), weights=str(tmp_path / "none.pth"))
        record = run_experiment(config, tmp_path / "run", RecordingReporter(), StopRequest())
        assert record["weights"] is None

    def test_reports_a_dropped_head(self, narrow_weights: Path, tmp_path: Path) -> None:
        image_tree(tmp_path / "pets", {"a": 6, "b": 6, "c": 6})
        config = tiny_config(
            dataset=f"imagefolder:{tmp_path / 'pets'}", weights=str(narrow_weights), variants=(C,)
        )
        reporter = RecordingReporter()
        record = run_experiment(config, tmp_path / "run", reporter, StopRequest())
        assert record["weights"]["dropped"] == ["fc.weight", "fc.bias"]
        assert any("dropped: fc.weight, fc.bias" in line for line in reporter.said)

    def test_an_earlier_run_as_weights(self, experiment: Run, narrow: None, tmp_path: Path) -> None:  # noqa: ARG002
        first = experiment(tmp_path / "first", variants=(A, B))
        config = tiny_config(weights=str(tmp_path / "first"), variants=(C,))
        second = run_experiment(config, tmp_path / "second", RecordingReporter(), StopRequest())
        scores = {r["variant"]: r["epochs"][r["best_epoch"] - 1]["val"]["n_correct"] for r in first["runs"]}
        winner = max(scores, key=lambda v: scores[v])
        assert second["weights"]["kind"] == "run"
        assert second["weights"]["source"] == f"{winner}-seed0.safetensors"
        by_name = {r["variant"]: r for r in first["runs"]}
        assert second["weights"]["sha256"] == by_name[winner]["artifacts"]["checkpoint"]["sha256"]

    def test_reports_what_was_decided(
        self, experiment: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        image_tree(tmp_path / "pets", {"train/a": 20, "train/b": 20})
        record = experiment(tmp_path / "run", dataset=f"imagefolder:{tmp_path / 'pets'}", variants=(A,))
        assert any("No validation" in note or "val/" in note for note in record["dataset"]["notes"]), record[
            "dataset"
        ]["notes"]
        assert capsys.readouterr().out == ""

    def test_bad_images_stop_it_or_are_left_out(self, experiment: Run, tmp_path: Path) -> None:
        image_tree(tmp_path / "pets", {"a": 8, "b": 8})
        (tmp_path / "pets" / "a" / "bad.png").write_bytes(b"bad")
        (tmp_path / "pets" / "b" / "gone.png").symlink_to(tmp_path / "nowhere")
        photo(tmp_path / "pets" / "a" / "extra.png", 99)
        options = {"dataset": f"imagefolder:{tmp_path / 'pets'}", "variants": (A,)}
        with pytest.raises(BadImagesError) as caught:
            experiment(tmp_path / "run", **options)
        assert set(caught.value.reasons) == {"a/bad.png", "b/gone.png"}
        record = experiment(tmp_path / "run", on_bad_image="skip", **options)
        excluded = {e["sample_id"] for e in record["dataset"]["excluded"]}
        assert excluded == {"a/bad.png", "b/gone.png"}


@pytest.fixture
def whole(stopped_at: Copy, tmp_path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Results without times and the files of an experiment with A and C that nobody disturbed."""
    record = stopped_at(tmp_path / "whole", NEVER)
    return without_times(record), file_digests(tmp_path / "whole")


class TestFailure:
    def test_of_one_variant_does_not_stop_the_others(self, experiment: Run, tmp_path: Path) -> None:
        rows = (dataclasses.replace(A, lr=1e12), C)
        record = experiment(tmp_path / "run", variants=rows)
        a, c = record["runs"]
        assert (a["status"], c["status"]) == ("failed", "completed")
        assert "1e+12" in a["failure"]
        assert c["failure"] is None
        assert (tmp_path / "run" / "results.json").is_file()
        assert (tmp_path / "run" / "report.html").is_file()
        if a["best_epoch"] is None:
            assert a["artifacts"] is None

    @pytest.mark.parametrize("error", [TypeError("a bug"), RecursionError()])
    def test_of_the_report_does_not_fail_the_job(
        self, narrow_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        def broken(*_: object) -> None:
            raise error

        monkeypatch.setattr(experiment_module, "write_report", broken)
        reporter, out = RecordingReporter(), tmp_path / "run"
        config = tiny_config(weights=str(narrow_weights), variants=(C,))
        record = run_experiment(config, out, reporter, StopRequest())
        assert json.loads((out / "results.json").read_text())["runs"] == record["runs"]
        (said,) = [line for line in reporter.said if "report could not be made" in line]
        assert f"{type(error).__name__}: {error}" in said
        assert f"finetune report {out}" in said
        assert "report.html" not in reporter.said[-1]

    def test_of_all(self, experiment: Run, tmp_path: Path) -> None:
        record = experiment(tmp_path / "run", variants=(A,), lr=1e12)
        assert [r["status"] for r in record["runs"]] == ["failed"]
        assert json.loads((tmp_path / "run" / "results.json").read_text())["runs"][0]["status"] == "failed"

    def test_a_full_disk_keeps_what_has_ended(
        self,
        experiment: Run,
        tmp_path: Path,
        whole: tuple[dict[str, Any], dict[str, str]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        real = Path.replace

        def full(self: Path, target: Path) -> Path:
            if "C-seed0" in self.name:
                raise OSError(28, "No space left on device")
            return real(self, target)

        with monkeypatch.context() as broken:
            broken.setattr(Path, "replace", full)
            with pytest.raises(RunFolderError, match="No space left on device"):
                experiment(tmp_path / "run", variants=(A, C))
        kept = json.loads((tmp_path / "run" / "results.json").read_text())
        assert [r["variant"] for r in kept["runs"]] == ["A"]
        assert without_times(experiment(tmp_path / "run", variants=(A, C), resume=True)) == whole[0]
        assert file_digests(tmp_path / "run") == whole[1]

    def test_too_little_disk_space_is_found_before_training(
        self, experiment: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=1000, used=0, free=1000))
        with pytest.raises(RunFolderError, match=r"needs .* of disk space"):
            experiment(tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_a_folder_in_use_is_left_alone(self, experiment: Run, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "mine.txt").touch()
        with pytest.raises(RunFolderError, match="has content"):
            experiment(tmp_path / "run")
        assert [p.name for p in (tmp_path / "run").iterdir()] == ["mine.txt"]

    @pytest.mark.parametrize(
        "error",
        [
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
            RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        ],
        ids=["PyTorch", "driver", "cuBLAS", "cuDNN"],
    )
    def test_memory_that_runs_out_names_the_batch_size_to_try(
        self, experiment: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
    ) -> None:
        def exhausted(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr("finetune.training.trainer.Trainer.run", exhausted)
        with pytest.raises(FinetuneError, match=r"A batch of 8 images .* try --batch-size 4"):
            experiment(tmp_path / "run")

    def test_a_gpu_where_there_is_none(
        self, experiment: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(ConfigError, match="--device cuda needs a GPU"):
            experiment(tmp_path / "run", device="cuda")


class TestWeightsThatAreMissing:
    @pytest.mark.parametrize("name", ["imagnet", "none.pth", "empty-folder"])
    def test_are_reported_before_any_image_is_read(
        self, experiment: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "empty-folder").mkdir()
        # The image folder does not exist either: whoever looked there first would say so.
        with pytest.raises(WeightsError, match=name):
            experiment(tmp_path / "run", dataset="imagefolder:no-such-folder", weights=name)
        assert not (tmp_path / "run").exists()

    def test_do_not_matter_to_random_starts(self, experiment: Run, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no-such-folder"):
            experiment(
                tmp_path / "run", dataset="imagefolder:no-such-folder", weights="none.pth", variants=(A,)
            )


class TestShard:
    pairs = (("A", 1), ("C", 0))

    def test_resumed_by_hand_trains_its_own_runs_with_its_own_threads(
        self, narrow_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        threads: list[int] = []
        monkeypatch.setattr(host, "cores", lambda: 4)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr(torch, "set_num_threads", threads.append)
        config, out = (
            tiny_config(weights=str(narrow_weights), variants=(A, C), seeds=2),
            tmp_path / "shard-000",
        )
        with pytest.raises(Stopped):
            run_experiment(
                config, out, RecordingReporter(), StopAt(12), shard=Shard(self.pairs, local_size=2)
            )
        for _ in range(2):  # the second time it is finished
            record = run_experiment(
                RunFolder(out).config(), out, RecordingReporter(), StopRequest(), resume=True
            )
            assert sorted((run["variant"], run["seed"]) for run in record["runs"]) == sorted(self.pairs)
        assert threads == [2, 2, 2]
        assert not (out / "report.html").exists()


class TestGradable:
    """What the grader would refuse to read is refused before it is trained."""

    def test_more_runs_than_the_grader_reads(self, experiment: Run, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"at most 100,000 values, but 120 runs of 3,600 epochs"):
            experiment(tmp_path / "run", seeds=40, epochs=30)
        assert not (tmp_path / "run" / "config.toml").exists()

    def test_the_estimate_is_above_what_is_written(self, finished: Finished) -> None:
        n_values = n_values_of(json.loads((finished[0] / "results.json").read_text("utf-8"))["runs"][0])
        assert n_values <= VALUES_PER_RUN + 2 * VALUES_PER_EPOCH <= 1.1 * n_values


class TestEvaluate:
    """Predictions recomputed from the checkpoints."""

    def evaluated(self, run: Path, output: Path) -> dict[str, bytes]:
        dataset = f"imagefolder:{run.parent / 'pets'}"
        evaluate_run(
            run, output, RecordingReporter(), dataset=dataset, data_root=None, device="cpu", threads=1
        )
        return {path.name: path.read_bytes() for path in output.glob("*.csv")}

    def recorded(self, run: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (run / "predictions").iterdir()}

    def test_needs_neither_the_gpu_nor_the_directory_of_training(
        self, experiment: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        image_tree(tmp_path / "pets", {"a": 9, "b": 9})
        run = tmp_path / "run"
        experiment(run, dataset="imagefolder:pets", variants=(A,))
        config = run / "config.toml"
        config.write_text(config.read_text().replace('store = "auto"', 'store = "device"'))
        assert RunFolder(run).config().store == "device"
        monkeypatch.chdir("/")
        assert self.evaluated(run, tmp_path / "fresh") == self.recorded(run)

    def test_decodes_no_training_image(
        self, experiment: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        image_tree(tmp_path / "pets", {f"{s}/{c}": 6 for s in ("train", "val", "test") for c in "ab"})
        photo(tmp_path / "pets" / "train" / "a" / "late.png", 77)
        run = tmp_path / "run"
        experiment(run, dataset=f"imagefolder:{tmp_path / 'pets'}", variants=(A,), subset=None)
        (tmp_path / "pets" / "train" / "a" / "late.png").write_bytes(b"damaged since")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another cache"))
        assert self.evaluated(run, tmp_path / "fresh") == self.recorded(run)

    def test_leaves_out_what_the_run_skipped(
        self, experiment: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        image_tree(tmp_path / "pets", {"a": 12, "b": 12})
        for name in ("a/bad", "a/worse", "b/bad"):
            (tmp_path / "pets" / f"{name}.png").write_bytes(name.encode())
        run = tmp_path / "run"
        dataset = f"imagefolder:{tmp_path / 'pets'}"
        experiment(run, dataset=dataset, variants=(A,), subset=None, on_bad_image="skip")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another cache"))
        assert self.evaluated(run, tmp_path / "fresh") == self.recorded(run)


class TestResume:
    """Three steps, six batches of evaluation and an epoch's end: ten safe points an epoch, two epochs."""

    @pytest.mark.parametrize("n", [1, 3, 4, 9, 10, 20, 25, 31])
    def test_a_signal_anywhere(
        self, experiment: Run, tmp_path: Path, whole: tuple[dict[str, Any], dict[str, str]], n: int
    ) -> None:
        with pytest.raises(Stopped):
            experiment(tmp_path / "run", variants=(A, C), stop=StopAt(n))
        resumed = experiment(tmp_path / "run", variants=(A, C), resume=True)
        assert without_times(resumed) == whole[0]
        assert file_digests(tmp_path / "run") == whole[1]

    @pytest.mark.usefixtures("saved_after_each_epoch")
    def test_again_and_again(
        self, experiment: Run, tmp_path: Path, whole: tuple[dict[str, Any], dict[str, str]]
    ) -> None:
        resume, stops = False, 0
        for _ in range(30):
            try:
                record = experiment(tmp_path / "run", variants=(A, C), stop=StopAt(11), resume=resume)
                break
            except Stopped:
                resume, stops = True, stops + 1
        assert stops >= 4
        assert without_times(record) == whole[0]
        assert file_digests(tmp_path / "run") == whole[1]

    def test_finished_variants_are_not_run_again(
        self, stopped_at: Copy, tmp_path: Path, narrow_weights: Path
    ) -> None:
        stopped_at(tmp_path / "run", 31)
        config = tiny_config(weights=str(narrow_weights), variants=(A, C))
        for expected in (["C"], []):  # the second time the experiment is finished
            reporter = RecordingReporter()
            run_experiment(config, tmp_path / "run", reporter, StopRequest(), resume=True)
            assert [line[0] for line in reporter.said if " seed 0: " in line] == expected

    def test_checkpoints_within_an_epoch(
        self,
        experiment: Run,
        tmp_path: Path,
        whole: tuple[dict[str, Any], dict[str, str]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """As after a crash in mid-epoch: the last step's checkpoint is there, though no signal came."""
        monkeypatch.setattr("finetune.run.saving.CHECKPOINT_SECONDS", 0.0)

        class Crash(StopRequest):
            left = 6

            def check(self) -> None:
                self.left -= 1
                if self.left == 0:
                    raise KeyError("crash")

        with pytest.raises(KeyError):
            experiment(tmp_path / "run", variants=(A, C), stop=Crash())
        assert list((tmp_path / "run" / "state").glob("A-seed0-0000000003-000000-*"))
        assert without_times(experiment(tmp_path / "run", variants=(A, C), resume=True)) == whole[0]
        assert file_digests(tmp_path / "run") == whole[1]

    def test_a_damaged_newest_checkpoint(
        self,
        experiment: Run,
        stopped_at: Copy,
        tmp_path: Path,
        whole: tuple[dict[str, Any], dict[str, str]],
    ) -> None:
        stopped_at(tmp_path / "run", 12)
        newest = sorted((tmp_path / "run" / "state").glob("A-seed0-0*"))[-1]
        newest.write_bytes(newest.read_bytes()[:-1])
        assert without_times(experiment(tmp_path / "run", variants=(A, C), resume=True)) == whole[0]
        assert file_digests(tmp_path / "run") == whole[1]

    def test_seconds_of_all_processes_count(self, experiment: Run, tmp_path: Path) -> None:
        with pytest.raises(Stopped):
            experiment(tmp_path / "run", variants=(C,), stop=StopAt(12))
        newest = sorted((tmp_path / "run" / "state").glob("C-seed0-0*"))[-1]
        content = newest.read_bytes()
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["training"])
        assert 0 < metadata["seconds"] < 60
        record = experiment(tmp_path / "run", variants=(C,), resume=True)
        assert record["runs"][0]["total_seconds"] > metadata["seconds"]


class TestIdentity:
    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"epochs": 3}, r"config\.recipe\.epochs was 2 and is 3"),
            ({"lr": 0.5}, r"config\.recipe\.lr was 0\.02 and is 0\.5"),
            ({"subset": 3}, r"config\.subset was 2 and is 3"),
            ({"variants": (A, B)}, r"config\.variants was"),
            ({"seed": 1}, r"config\.seeds was \[0\] and is \[1\]"),
        ],
    )
    def test_another_configuration(
        self, experiment: Run, stopped_at: Copy, tmp_path: Path, change: dict[str, Any], named: str
    ) -> None:
        stopped_at(tmp_path / "run", 31)
        with pytest.raises(
            RunFolderError,
            match=f"must be resumed with the same images, weights and settings, but .* {named}",
        ):
            experiment(tmp_path / "run", resume=True, **{"variants": (A, C), **change})

    @pytest.mark.parametrize("ended", [True, False])
    def test_other_images(self, experiment: Run, tmp_path: Path, ended: bool) -> None:
        image_tree(tmp_path / "pets", {f"{s}/{c}": 10 for s in ("train", "val", "test") for c in "ab"})
        fields = {"dataset": f"imagefolder:{tmp_path / 'pets'}", "subset": None, "variants": (A, C)}
        with pytest.raises(Stopped):
            experiment(tmp_path / "run", stop=StopAt(31 if ended else 2), **fields)
        photo(tmp_path / "pets" / "val" / "a" / "000.png", 12345)
        with pytest.raises(RunFolderError, match=r"dataset\.splits\.val\.fingerprint was .* and is"):
            experiment(tmp_path / "run", resume=True, **fields)

    def test_other_weights(
        self, experiment: Run, stopped_at: Copy, narrow_weights: Path, tmp_path: Path
    ) -> None:
        stopped_at(tmp_path / "run", 31)
        state = safetensors.torch.load(narrow_weights.read_bytes())
        state["conv1.weight"][0, 0, 0, 0] += 1
        other = tmp_path / narrow_weights.name
        other.write_bytes(safetensors.torch.save(state))
        with pytest.raises(RunFolderError, match=r"weights\.sha256 was .* and is"):
            experiment(tmp_path / "run", resume=True, variants=(A, C), weights=str(other))

    @pytest.mark.parametrize("name", ["results.json", "state/identity.json"])
    @pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"config": 1}', "null", "[" * 100_000])
    def test_a_tampered_file_is_refused(
        self, experiment: Run, stopped_at: Copy, tmp_path: Path, name: str, content: str
    ) -> None:
        stopped_at(tmp_path / "run", 31 if name == "results.json" else 12)
        (tmp_path / "run" / name).write_text(content)
        with pytest.raises(RunFolderError):
            experiment(tmp_path / "run", resume=True, variants=(A, C))

    def test_a_folder_that_another_process_uses(
        self, experiment: Run, stopped_at: Copy, tmp_path: Path
    ) -> None:
        stopped_at(tmp_path / "run", 31)
        with locked(tmp_path / "run"), pytest.raises(RunFolderError, match="Only one process"):
            experiment(tmp_path / "run", resume=True, variants=(A, C))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.usefixtures("saved_after_each_epoch")
class TestCrash:
    """Killed for good, in a process of its own that is forked where everything is loaded."""

    fields: dict[str, Any] = {"variants": (A, C)}  # noqa: RUF012 - never changed

    def forked(self, work: Callable[[], object]) -> int:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                work()
                code = 0
            finally:
                os._exit(code)
        return child

    def ended(self, child: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def go_on(self, experiment: Run, out: Path) -> dict[str, Any]:
        resume = (out / "config.toml").is_file()
        if resume:
            tomllib.loads((out / "config.toml").read_text())  # whole, if it is there at all
        return experiment(out, resume=resume, **self.fields)

    def crash_at_write(self, experiment: Run, out: Path, n: int) -> int:
        """Die at the n-th sync or renaming of a file; the exit code, 0 if there are fewer."""

        def work() -> None:
            left = [n]

            def dying(real: Callable[..., Any]) -> Callable[..., Any]:
                def call(*arguments: Any) -> Any:
                    left[0] -= 1
                    if left[0] == 0:
                        os._exit(77)
                    return real(*arguments)

                return call

            Path.replace = dying(Path.replace)  # type: ignore[method-assign]
            os.fsync = dying(lambda _: None)
            self.go_on(experiment, out)

        return self.ended(self.forked(work))

    @pytest.mark.parametrize("n", [1, 2, 4, 8, 14, 26])
    def test_at_a_write(
        self, experiment: Run, tmp_path: Path, whole: tuple[dict[str, Any], dict[str, str]], n: int
    ) -> None:
        assert self.crash_at_write(experiment, tmp_path / "run", n) == 77
        assert without_times(self.go_on(experiment, tmp_path / "run")) == whole[0]
        assert file_digests(tmp_path / "run") == whole[1]

    @pytest.mark.slow
    def test_at_every_write(self, experiment: Run, tmp_path: Path) -> None:
        expected = without_times(experiment(tmp_path / "whole", **self.fields))
        for n in range(1, 1000):
            out = tmp_path / f"run{n}"
            code = self.crash_at_write(experiment, out, n)
            assert code in (0, 77), n
            if code == 0:
                break
            assert without_times(self.go_on(experiment, out)) == expected, n
            assert file_digests(out) == file_digests(tmp_path / "whole"), n
        assert n > 40

    @pytest.mark.slow
    def test_killed_at_random_instants(self, experiment: Run, tmp_path: Path) -> None:
        """FINETUNE_KILLS says how many kills the job must survive; each comes at a random instant."""
        wanted = int(os.environ.get("FINETUNE_KILLS", "5"))
        began = time.monotonic()
        expected = without_times(experiment(tmp_path / "whole", **self.fields))
        duration = time.monotonic() - began
        files = file_digests(tmp_path / "whole")
        chance = random.Random(0)  # noqa: S311 - no secret
        kills = 0
        for number in range(10 * wanted):
            out = tmp_path / f"run{number}"
            for _ in range(100):
                child = self.forked(lambda out=out: self.go_on(experiment, out))  # type: ignore[misc]
                time.sleep(chance.uniform(0, duration))
                os.kill(child, signal.SIGKILL)
                code = self.ended(child)
                assert code in (0, -signal.SIGKILL)
                if code == 0:
                    break
                kills += 1
                if (out / "results.json").is_file():
                    json.loads((out / "results.json").read_text())
                if kills == wanted:
                    break
            record = self.go_on(experiment, out)
            assert without_times(record) == expected
            assert file_digests(out) == files
            if kills >= wanted:
                break
        assert kills == wanted


def test_the_start_of_the_process_does_not_jump_with_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    before = environment.elapsed_seconds()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 0 < before <= environment.elapsed_seconds() < before + 60


class TestRows:
    def test_a_longer_variant_has_its_own_budget_and_schedule(self, experiment: Run, tmp_path: Path) -> None:
        longer = dataclasses.replace(A, name="A3", epochs=6)
        record = experiment(tmp_path / "run", variants=(A, longer, C))
        assert [r["budget"]["epochs"] for r in record["runs"]] == [2, 6, 2]
        assert [r["budget"]["steps"] for r in record["runs"]] == [6, 18, 6]
        short, long = ([e["learning_rate"] for e in r["epochs"]] for r in record["runs"][:2])
        assert short[0] == long[0]  # both warm up for one epoch; then the shorter one falls faster
        assert short[1] < long[1] == max(long)
        assert long[-1] < short[-1]
        assert record["runs"][0]["initial_sha256"] == record["runs"][1]["initial_sha256"]
        with pytest.raises(Stopped):
            experiment(tmp_path / "again", variants=(A, longer, C), stop=StopAt(60))
        again = experiment(tmp_path / "again", variants=(A, longer, C), resume=True)
        assert without_times(again) == without_times(record)

    def test_adapting_statistics_move_and_parameters_do_not(
        self, experiment: Run, narrow_file: Path, tmp_path: Path
    ) -> None:
        adapting = dataclasses.replace(C, name="C-adapt", norm="adapt")
        record = experiment(tmp_path / "run", variants=(C, adapting), statistics="running", cache_views=2)
        start = safetensors.torch.load_file(narrow_file)
        state = safetensors.torch.load_file(tmp_path / "run" / "checkpoints" / "C-adapt-seed0.safetensors")
        for name, tensor in start.items():
            frozen = name.partition(".")[0] not in C.groups and "running" not in name and "num_" not in name
            assert torch.equal(tensor, state[name]) == frozen, name
        usual, adapted = record["runs"]
        for run in record["runs"]:
            assert run["frozen_sha256_before"] == run["frozen_sha256_after"]
        assert usual["frozen_sha256_before"] != adapted["frozen_sha256_before"]  # with and without statistics
        assert usual["trainable_parameters"] == adapted["trainable_parameters"]
        assert usual["initial_sha256"] == adapted["initial_sha256"]
        assert [v["norm"] for v in record["config"]["variants"]] == ["frozen", "adapt"]


class TestResplit:
    fields = {"variants": (A, C), "seeds": 2, "resplit": True, "cache_views": 2, "split": "60-20-20"}  # noqa: RUF012 - not changed

    def test_each_seed_is_what_it_would_be_alone(self, experiment: Run, tmp_path: Path) -> None:
        record = experiment(tmp_path / "run", **self.fields, statistics="reestimated")
        assert (record["config"]["resplit"], record["config"]["split"]) == (True, "60-20-20")
        resplits = record["dataset"]["resplits"]
        assert [entry["seed"] for entry in resplits] == [0, 1]
        assert record["dataset"]["splits"] == resplits[0]["splits"] != resplits[1]["splits"]
        for seed in (0, 1):
            same = {**self.fields, "resplit": False, "seeds": 1, "seed": seed, "split_seed": seed}
            alone = experiment(tmp_path / f"alone-{seed}", **same)
            assert alone["dataset"]["splits"] == resplits[seed]["splits"]
            runs = [run for run in record["runs"] if run["seed"] == seed]
            for ours, theirs in zip(runs, alone["runs"], strict=True):
                if seed == 0:  # cached views are those of the first seed
                    assert ours["epochs"][-1]["test"] == theirs["epochs"][-1]["test"]
                    assert ours["artifacts"]["test_predictions"] == theirs["artifacts"]["test_predictions"]
                assert ours["initial_sha256"] == theirs["initial_sha256"]

    def test_stopped_and_resumed(self, experiment: Run, tmp_path: Path) -> None:
        whole = experiment(tmp_path / "whole", **self.fields)
        with pytest.raises(Stopped):
            experiment(tmp_path / "run", **self.fields, stop=StopAt(70))
        again = experiment(tmp_path / "run", **self.fields, resume=True)
        assert without_times(again) == without_times(whole)
        assert file_digests(tmp_path / "run") == file_digests(tmp_path / "whole")

    def test_checkpoints_are_evaluated_on_the_splits_of_their_seeds(
        self, experiment: Run, tmp_path: Path
    ) -> None:
        experiment(tmp_path / "run", **self.fields)
        options: dict[str, Any] = {"dataset": None, "data_root": None, "device": "cpu", "threads": 1}
        evaluate_run(tmp_path / "run", tmp_path / "fresh", RecordingReporter(), **options)
        fresh = file_digests(tmp_path / "fresh", skip=["recomputed.json"])
        assert fresh == file_digests(tmp_path / "run" / "predictions")
        rows = [(tmp_path / "fresh" / f"A-seed{seed}-test.csv").read_text("utf-8") for seed in (0, 1)]
        ids = [{line.partition(",")[0] for line in text.splitlines()[1:]} for text in rows]
        assert ids[0] != ids[1]
