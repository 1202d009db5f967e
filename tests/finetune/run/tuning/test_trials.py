"""Tuned experiments with a narrow network: what trials may see, how they resume, what they choose."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.config.experiment import STANDARD_VARIANTS
from finetune.config.tune import Tune
from finetune.data import cache
from finetune.data import prepare as data_prepare
from finetune.errors import RunFolderError
from finetune.run.experiment import run_experiment
from finetune.run.records import Shard
from finetune.run.tuning import trials
from finetune.system.signals import Stopped, StopRequest
from finetune.training.features import FrozenPrefix
from finetune.training.trainer import Trainer
from tests.builders.config import tiny_config
from tests.builders.images import image_tree
from tests.builders.runs import RecordingReporter, StopAt
from tests.compare_runs import file_digests, without_times

A, B, C = STANDARD_VARIANTS
Run = Callable[..., dict[str, Any]]
TUNE = Tune(rates=(0.01, 0.02, 0.04))
TINY = {"variants": (A, C), "tune": TUNE, "epochs": 2}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Trainer]:
    """Every trainer that is run, in order."""
    found: list[Trainer] = []
    run = Trainer.run

    def recording(self: Trainer, *arguments: Any) -> Any:
        found.append(self)
        return run(self, *arguments)

    monkeypatch.setattr(Trainer, "run", recording)
    return found


class TestWhole:
    def test_the_record(self, experiment: Run, tmp_path: Path) -> None:
        record = experiment(tmp_path / "run", **TINY, seeds=2)
        tuning = record["tuning"]
        assert record["config"]["tune"] == tuning["mode"] == "halving"
        assert tuning["rates"] == list(TUNE.rates)
        assert tuning["seed"] == 2
        assert {t["seed"] for t in tuning["trials"]} == {2}
        assert [r["seed"] for r in record["runs"]] == [0, 0, 1, 1]
        choices = {c["variant"]: c for c in tuning["choices"]}
        for run in record["runs"]:
            choice = choices[run["variant"]]
            assert (run["learning_rate"], run["trial"]) == (choice["learning_rate"], choice["trial"])
            assert tuning["trials"][run["trial"]]["learning_rate"] == run["learning_rate"]
        assert not (tmp_path / "run" / "state").exists()

    def test_trials_have_a_whole_schedule_of_their_own(
        self, experiment: Run, tmp_path: Path, trained: list[Trainer]
    ) -> None:
        record = experiment(tmp_path / "run", **{**TINY, "epochs": 5, "variants": (C,)})
        n_trials = len(record["tuning"]["trials"])
        assert {t.recipe.epochs for t in trained[:n_trials]} == {1, 3}
        assert [t.recipe.epochs for t in trained[n_trials:]] == [5]
        for trainer, trial in zip(
            sorted(trained[:3], key=lambda t: t.peak), record["tuning"]["trials"][:3], strict=True
        ):
            assert trainer.peak == trial["learning_rate"]
            assert trainer.training.steps == trial["epochs"] * trainer.steps_per_epoch
            assert len(trial["validation"]) == trial["epochs"]

    def test_one_epoch_and_one_variant(self, experiment: Run, tmp_path: Path) -> None:
        record = experiment(
            tmp_path / "run", variants=(B,), tune=Tune(mode="full", rates=(0.01, 0.02)), epochs=1
        )
        assert record["runs"][0]["status"] == "completed"
        assert all(t["epochs"] == 1 for t in record["tuning"]["trials"])

    def test_trials_of_a_variant_start_alike_and_see_the_same_images(
        self, experiment: Run, tmp_path: Path
    ) -> None:
        record = experiment(tmp_path / "run", **TINY)
        for name in "AC":
            of_one = [t for t in record["tuning"]["trials"] if t["variant"] == name]
            assert len({t["initial_sha256"] for t in of_one}) == 1
        assert record["tuning"]["trials"][0]["initial_sha256"] != record["runs"][0]["initial_sha256"]
        assert len({(t["epochs"], t["stream_sha256"]) for t in record["tuning"]["trials"]}) == 1

    def test_what_is_said(self, narrow_weights: Path, tmp_path: Path) -> None:
        reporter = RecordingReporter()
        config = tiny_config(weights=str(narrow_weights), **TINY)
        run_experiment(config, tmp_path / "run", reporter, StopRequest())
        said = "\n".join(reporter.said)
        assert (
            "Tuning (halving): 3 peak learning rates from 0.01 to 0.04 for A, C; 6 epochs of trials" in said
        )
        assert said.count("rest of the job takes about") == 1
        assert said.index("rest of the job takes about") < said.index("Trial, round 1: A at 0.02")
        assert "C: learning rate 0.0" in said


class TestTestSplit:
    def test_trainers_of_trials_have_no_test_images(
        self, experiment: Run, tmp_path: Path, trained: list[Trainer]
    ) -> None:
        record = experiment(tmp_path / "run", **TINY)
        n_trials = len(record["tuning"]["trials"])
        assert [list(t.images.held_out) for t in trained] == [["val"]] * n_trials + [["val", "test"]] * 2
        assert all(epoch.test is None for t in trained[:n_trials] for epoch in t.training.epochs)

    @pytest.mark.parametrize("store", ["auto", "off"])
    def test_is_neither_in_memory_nor_read_until_the_trials_have_ended(
        self, experiment: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str
    ) -> None:
        """From the first trial to the last, the files of the test split and their cache entry are gone."""
        folder = image_tree(
            tmp_path / "pets", {f"{s}/{c}": 6 for s in ("train", "val", "test") for c in "ab"}
        )
        aside, prepared_images = tmp_path / "aside", data_prepare.prepare_images
        loaded: list[weakref.ref[object]] = []
        seen: list[str] = []

        def preparing(config: Any, split: Any, *arguments: Any) -> Any:
            found, sources, seconds = prepared_images(config, split, *arguments)
            loaded.append(weakref.ref(sources["test"]))
            return found, sources, seconds

        def without_test(train: Callable[..., Any]) -> Callable[..., Any]:
            def run(*arguments: Any) -> Any:
                gc.collect()
                seen.append("trials")
                assert loaded[0]() is None
                (folder / "test").rename(aside)
                for entry in cache.entries():
                    if "test" in entry.name:
                        cache.discard(entry.name)
                try:
                    return train(*arguments)
                finally:
                    aside.rename(folder / "test")

            return run

        monkeypatch.setattr("finetune.run.prepare.prepare_images", preparing)
        monkeypatch.setattr(trials, "run_trials", without_test(trials.run_trials))
        options = {**TINY, "dataset": f"imagefolder:{folder}", "subset": None, "store": store}
        record = experiment(tmp_path / "run", **options)
        assert seen == ["trials"]
        assert [r["status"] for r in record["runs"]] == ["completed"] * 2
        assert all(e["test"]["n_samples"] == 12 for r in record["runs"] for e in r["epochs"])

    def test_unreadable_test_images_stop_the_job_before_the_first_trial(
        self, experiment: Run, tmp_path: Path, trained: list[Trainer]
    ) -> None:
        folder = image_tree(
            tmp_path / "pets", {f"{s}/{c}": 6 for s in ("train", "val", "test") for c in "ab"}
        )
        (folder / "test" / "a" / "bad.png").write_bytes(b"bad")
        with pytest.raises(Exception, match=r"test/a/bad\.png"):
            experiment(tmp_path / "run", **{**TINY, "dataset": f"imagefolder:{folder}", "subset": None})
        assert trained == []

    def test_the_choice_does_not_depend_on_it(self, experiment: Run, tmp_path: Path) -> None:
        counts = {f"{s}/{c}": 6 for s in ("train", "val") for c in "ab"}
        records = []
        for name, first_seed in (("one", 100), ("two", 200)):
            folder = image_tree(tmp_path / name, counts)
            image_tree(folder, {f"test/{c}": 6 for c in "ab"}, first_seed)
            options = {**TINY, "dataset": f"imagefolder:{folder}", "subset": None}
            records.append(experiment(tmp_path / f"run {name}", **options))
        one, two = records
        assert one["dataset"]["splits"]["test"] != two["dataset"]["splits"]["test"]
        assert without_times(one["tuning"]) == without_times(two["tuning"])


class TestFailure:
    def test_a_trial_that_diverges_is_on_record_and_the_rest_goes_on(
        self, experiment: Run, tmp_path: Path
    ) -> None:
        record = experiment(tmp_path / "run", variants=(A,), tune=Tune(rates=(0.01, 0.02, 1e12)))
        failed = [t for t in record["tuning"]["trials"] if t["status"] == "failed"]
        assert [t["learning_rate"] for t in failed] == [1e12]
        assert "1e+12" in failed[0]["failure"]
        assert record["runs"][0]["status"] == "completed"

    def test_a_variant_of_which_all_diverge(self, experiment: Run, tmp_path: Path) -> None:
        record = experiment(tmp_path / "run", variants=(A, C), tune=Tune(rates=(1e12, 1e13)), seeds=2)
        assert record["tuning"]["choices"] == []
        for run in record["runs"]:
            assert run["status"] == "failed"
            assert f"No learning rate could be chosen for {run['variant']}" in run["failure"]
            assert (run["trial"], run["artifacts"], run["budget"]["steps"]) == (None, None, 0)
        assert (tmp_path / "run" / "report.html").exists()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, narrow_file: Path) -> tuple[Any, dict[str, str]]:
    """Results without times and the files of a tuned experiment that nobody disturbed."""
    from tests.builders.networks import use_narrow_network

    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_narrow_network(monkeypatch, draw=False)
        config = tiny_config(weights=str(narrow_file), **TINY)
        record = run_experiment(config, out, RecordingReporter(), StopRequest())
    return without_times(record), file_digests(out)


class TestResume:
    """Three steps, three batches of validation and an epoch's end: seven safe points in a trial."""

    @pytest.mark.parametrize("n", [3, 5, 40, 75])
    def test_a_signal_anywhere(
        self, experiment: Run, tmp_path: Path, whole: tuple[Any, dict[str, str]], n: int
    ) -> None:
        with pytest.raises(Stopped):
            experiment(tmp_path / "run", **TINY, stop=StopAt(n))
        resumed = experiment(tmp_path / "run", **TINY, resume=True)
        assert without_times(resumed) == whole[0]
        assert file_digests(tmp_path / "run") == whole[1]

    def test_again_and_again(
        self, experiment: Run, tmp_path: Path, whole: tuple[Any, dict[str, str]]
    ) -> None:
        resume, stops = False, 0
        for _ in range(60):
            try:
                record = experiment(tmp_path / "run", **TINY, stop=StopAt(25), resume=resume)
                break
            except Stopped:
                resume, stops = True, stops + 1
        assert stops >= 3
        assert without_times(record) == whole[0]
        assert file_digests(tmp_path / "run") == whole[1]

    @pytest.mark.parametrize("every_step", [False, True])
    @pytest.mark.parametrize("n", [17, 45])
    def test_killed(
        self,
        experiment: Run,
        tmp_path: Path,
        whole: tuple[Any, dict[str, str]],
        monkeypatch: pytest.MonkeyPatch,
        n: int,
        every_step: bool,
    ) -> None:
        """No checkpoint is written on the way out; before, none at all, or one after every step."""
        if every_step:
            monkeypatch.setattr("finetune.run.saving.CHECKPOINT_SECONDS", 0.0)

        class Crash(StopRequest):
            left = n

            def check(self) -> None:
                self.left -= 1
                if self.left == 0:
                    raise KeyError("crash")

        with pytest.raises(KeyError):
            experiment(tmp_path / "run", **TINY, stop=Crash())
        assert bool(list((tmp_path / "run" / "state").glob("*.round*"))) == every_step or n > 40
        assert without_times(experiment(tmp_path / "run", **TINY, resume=True)) == whole[0]
        assert file_digests(tmp_path / "run") == whole[1]

    def test_trials_that_have_ended_are_not_run_again(
        self, experiment: Run, tmp_path: Path, trained: list[Trainer]
    ) -> None:
        with pytest.raises(Stopped):
            experiment(tmp_path / "run", **TINY, stop=StopAt(24))
        ended = json.loads((tmp_path / "run" / "state" / "tuning.json").read_text())["trials"]
        assert len(ended) == 2
        before = len(trained)
        record = experiment(tmp_path / "run", **TINY, resume=True)
        assert len(trained) - before == len(record["tuning"]["trials"]) - 2 + 2
        experiment(tmp_path / "run", **TINY, resume=True)  # a finished one

    def test_seconds_of_all_processes_count(self, experiment: Run, tmp_path: Path) -> None:
        with pytest.raises(Stopped):
            experiment(tmp_path / "run", **TINY, stop=StopAt(30))
        file = tmp_path / "run" / "state" / "tuning.json"
        content = json.loads(file.read_text())
        assert 0 < content["seconds"] < 60
        file.write_text(json.dumps({**content, "seconds": 1e6}))
        record = experiment(tmp_path / "run", **TINY, resume=True)
        assert record["timings"]["total_seconds"] > 1e6

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", "cannot be read"),
            ('{"rates": [0.01, 0.02, 0.04], "seconds": 1, "trials": [{}]}', "cannot be read"),
            ('{"rates": [0.01, 0.02], "seconds": 1, "trials": []}', "rates to try that it started with"),
        ],
    )
    def test_a_damaged_log_is_refused(
        self, experiment: Run, tmp_path: Path, content: str, message: str
    ) -> None:
        with pytest.raises(Stopped):
            experiment(tmp_path / "run", **TINY, stop=StopAt(24))
        (tmp_path / "run" / "state" / "tuning.json").write_text(content)
        with pytest.raises(RunFolderError, match=message):
            experiment(tmp_path / "run", **TINY, resume=True)


class TestFeatures:
    def test_frozen_features_are_computed_once_for_all_trials_and_runs(
        self, experiment: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        computed: list[int] = []
        compute = FrozenPrefix.compute

        def counting(self: FrozenPrefix, pixels: Any) -> Any:
            computed.append(len(pixels))
            return compute(self, pixels)

        monkeypatch.setattr(FrozenPrefix, "compute", counting)
        record = experiment(tmp_path / "run", **{**TINY, "variants": (C,), "cache_views": 2})
        n = {name: split["n_samples"] for name, split in record["dataset"]["splits"].items()}
        assert sum(computed) == 2 * n["train"] + n["val"] + n["test"]

    def test_trials_are_a_reason_for_views(self, experiment: Run, tmp_path: Path) -> None:
        record = experiment(tmp_path / "run", **{**TINY, "variants": (C,), "cache_views": "auto"})
        assert record["config"]["cache_views"] == 2


class TestShard:
    def test_resumed_alone_it_cannot_train_all_trials(self, narrow_weights: Path, tmp_path: Path) -> None:
        config = tiny_config(weights=str(narrow_weights), **TINY)
        shard = Shard((("A", 0),))
        with pytest.raises(RunFolderError, match="repeat the command that started the run"):
            run_experiment(config, tmp_path / "run", RecordingReporter(), StopRequest(), shard=shard)


def test_trials_in_excess_of_what_the_grader_reads_are_refused(experiment: Run, tmp_path: Path) -> None:
    rates = tuple(float(n) for n in range(1, 2000))
    with pytest.raises(Exception, match="at most 100,000 values"):
        experiment(tmp_path / "run", **{**TINY, "tune": Tune(mode="full", rates=rates), "epochs": 30})
