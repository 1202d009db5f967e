"""What TensorBoard and MLflow read of a tracked job, with their own readers."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune.cli.app import EXTRAS
from finetune.config.experiment import STANDARD_VARIANTS
from finetune.errors import ConfigError
from finetune.run.merge import merge_runs
from finetune.run.tracking.trackers import Tracking
from finetune.system.signals import Stopped
from tests.builders.runs import Command, RecordingReporter, StopAt

Experiment = Callable[..., dict[str, Any]]
SPLITS = ("train", "val", "test")


@pytest.fixture(autouse=True)
def _own_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No store but the default one; MLflow's loggers and variables as they were."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    levels = {name: logging.getLogger(name).level for name in ("alembic", "mlflow")}
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def tensorboard_runs(out: Path) -> dict[str, Any]:
    """Each run's events, as TensorBoard accumulates them."""
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    found = EventMultiplexer(size_guidance={"scalars": 0, "images": 0})
    found.AddRunsFromDirectory(str(out / "tensorboard"))
    found.Reload()
    return {name: found.GetAccumulator(name) for name in found.Runs()}


def require_mlflow() -> Any:
    for module in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(module, reason="needs the extra mlflow")
    import mlflow

    return mlflow


def assert_curves(out: Path, record: dict[str, Any]) -> None:
    runs = tensorboard_runs(out)
    assert set(runs) == {f"{run['variant']}-seed{run['seed']}" for run in record["runs"]}
    for run in record["runs"]:
        events = runs[f"{run['variant']}-seed{run['seed']}"]
        for split in SPLITS:
            wanted = [(e["epoch"], e[split]["n_correct"] / e[split]["n_samples"]) for e in run["epochs"]]
            points = [(p.step, p.value) for p in events.Scalars(f"accuracy/{split}")]
            assert points == [(step, pytest.approx(value)) for step, value in wanted]
            assert len(events.Scalars(f"loss/{split}")) == len(wanted)
        rates = [p.value for p in events.Scalars("learning_rate")]
        assert rates == pytest.approx([e["learning_rate"] for e in run["epochs"]])


class TestTensorBoard:
    def test_curves_hyperparameters_and_mistakes(self, experiment: Experiment, tmp_path: Path) -> None:
        out = tmp_path / "run"
        record = experiment(out, track=("tensorboard",))
        assert_curves(out, record)
        for name, events in tensorboard_runs(out).items():
            (run,) = (r for r in record["runs"] if f"{r['variant']}-seed{r['seed']}" == name)
            best = run["epochs"][run["best_epoch"] - 1]
            (chosen,) = events.Scalars("hparam/test_accuracy")
            assert chosen.value == pytest.approx(best["test"]["n_correct"] / best["test"]["n_samples"])
            assert chosen.step == run["best_epoch"]
            content = b"".join(events.PluginTagToContent("hparams").values())
            assert b"recipe/batch_size" in content  # after init and lr, by name
            wrong = best["test"]["n_samples"] - best["test"]["n_correct"]
            images = events.Tags()["images"]
            assert len(images) == min(8, wrong)
            assert all(tag.startswith("mistakes/") and " taken for " in tag for tag in images)

    @pytest.mark.parametrize("n", [4, 9, 16])
    def test_a_resumed_job_has_every_point_once(self, experiment: Experiment, tmp_path: Path, n: int) -> None:
        out = tmp_path / "run"
        with pytest.raises(Stopped):
            experiment(out, track=("tensorboard",), stop=StopAt(n))
        record = experiment(out, track=("tensorboard",), resume=True)
        assert_curves(out, record)
        record = experiment(out, track=("tensorboard",), resume=True)  # nothing left to do
        assert_curves(out, record)
        images = {name: len(e.Tags()["images"]) for name, e in tensorboard_runs(out).items()}
        assert all(
            len(events.Scalars("hparam/val_accuracy")) == 1 and images[name] <= 8
            for name, events in tensorboard_runs(out).items()
        )

    def test_merged_shards(self, experiment: Experiment, tmp_path: Path) -> None:
        parts = [tmp_path / name for name in "ab"]
        for part, variant in zip(parts, STANDARD_VARIANTS, strict=False):
            experiment(part, track=("tensorboard",), variants=(variant,))
            shutil.rmtree(part / "tensorboard")
        out = tmp_path / "merged"
        assert_curves(out, merge_runs(parts, out, RecordingReporter()))


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # of SQLAlchemy's newest version, for MLflow to mend
class TestMLflow:
    def client(self, out: Path) -> Any:
        return require_mlflow().MlflowClient(tracking_uri=f"sqlite:///{out.parent / 'mlflow.db'}")

    def assert_runs(self, out: Path, record: dict[str, Any]) -> Any:
        """Check the runs in the store; the job's run."""
        client = self.client(out)
        (experiment,) = (e for e in client.search_experiments() if e.name == "finetune")
        found = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
        names = {f"{run['variant']}-seed{run['seed']}" for run in record["runs"]}
        assert set(found) == names | {out.name}
        job = found[out.name]
        for run in record["runs"]:
            tracked = found[f"{run['variant']}-seed{run['seed']}"]
            assert tracked.data.tags["mlflow.parentRunId"] == job.info.run_id
            assert tracked.info.status == "FINISHED"
            assert tracked.data.params["variant"] == run["variant"]
            for split in SPLITS:
                history = client.get_metric_history(tracked.info.run_id, f"{split}_accuracy")
                wanted = [(e["epoch"], e[split]["n_correct"] / e[split]["n_samples"]) for e in run["epochs"]]
                assert sorted((m.step, m.value) for m in history) == wanted
            (best,) = client.get_metric_history(tracked.info.run_id, "best_test_accuracy")
            assert best.step == run["best_epoch"]
        return job

    def test_a_job(self, experiment: Experiment, tmp_path: Path) -> None:
        require_mlflow()
        out = tmp_path / "runs" / "one"
        record = experiment(out, track=("mlflow",))
        job = self.assert_runs(out, record)
        assert job.info.status == "FINISHED"
        assert job.data.params["recipe.epochs"] == "2"
        kind = self.client(out).get_experiment(job.info.experiment_id).tags["mlflow.experimentKind"]
        assert kind == "custom_model_development"
        low, high = (float(job.data.tags[f"b-beats-a.{limit}"]) for limit in ("low", "high"))
        assert low < float(job.data.tags["b-beats-a.difference"]) < high
        assert job.data.tags["verdict"]
        files = {file.path for file in self.client(out).list_artifacts(job.info.run_id)}
        assert files == {"results.json", "report.html", "config.toml"}
        (stored,) = (tmp_path / "runs" / "mlflow-artifacts").rglob("results.json")
        assert json.loads(stored.read_text()) == json.loads((out / "results.json").read_text())

    @pytest.mark.parametrize("n", [4, 9])
    def test_a_resumed_job_goes_on_in_the_same_runs(
        self, experiment: Experiment, tmp_path: Path, n: int
    ) -> None:
        require_mlflow()
        out = tmp_path / "runs" / "one"
        with pytest.raises(Stopped):
            experiment(out, track=("mlflow",), stop=StopAt(n))
        for _ in range(2):
            record = experiment(out, track=("mlflow",), resume=True)
            self.assert_runs(out, record)

    def test_a_store_of_ones_own(
        self, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mlflow = require_mlflow()
        uri = f"sqlite:///{tmp_path / 'mine.db'}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "flowers")
        monkeypatch.chdir(tmp_path)  # where MLflow would put artifacts
        experiment(tmp_path / "runs" / "one", track=("mlflow",))
        assert not (tmp_path / "runs" / "mlflow.db").exists()
        assert {e.name for e in mlflow.MlflowClient(tracking_uri=uri).search_experiments()} >= {"flowers"}

    def test_a_damaged_store(self, experiment: Experiment, tmp_path: Path) -> None:
        require_mlflow()
        (tmp_path / "mlflow.db").write_text("This is not a database. " * 100)
        with pytest.raises(ConfigError, match="--track mlflow needs a store that can be written"):
            experiment(tmp_path / "run", track=("mlflow",))

    def test_a_store_that_cannot_be_used(
        self, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        require_mlflow()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "carrier-pigeon://me:secret@roof")
        with pytest.raises(ConfigError, match="carrier-pigeon") as refused:
            experiment(tmp_path / "run", track=("mlflow",))
        assert "secret" not in str(refused.value)


def test_no_tracker_is_imported_unless_asked() -> None:
    code = (
        "import sys; import finetune.run.experiment, finetune.run.merge; "
        "print([m for m in ('tensorboard', 'mlflow', 'torch.utils.tensorboard') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_untracked_job_leaves_no_such_file(experiment: Experiment, tmp_path: Path) -> None:
    experiment(tmp_path / "runs" / "one")
    names = {path.name for path in (tmp_path / "runs").rglob("*")}
    assert not names & {"tensorboard", "mlflow.json", "mlflow.db"}


class TestFailing:
    def test_a_tracker_that_fails_costs_no_results(self) -> None:
        class Broken:
            calls = 0

            def epochs(self, *_: Any) -> None:
                self.calls += 1
                raise OSError("disk full")

            ended = finished = epochs

        reporter, broken = RecordingReporter(), Broken()
        tracking = Tracking({"mlflow": broken}, reporter)
        for _ in range(3):
            tracking.of({"variant": "A", "seed": 0})([])
        assert broken.calls == 1
        (line,) = reporter.said
        assert line.startswith("Tracking with mlflow has stopped (OSError: disk full)")

    @pytest.mark.parametrize("tracker", ["tensorboard", "mlflow"])
    def test_a_missing_extra_is_named(
        self, finetune: Command, monkeypatch: pytest.MonkeyPatch, tracker: str
    ) -> None:
        for module in [name for name in sys.modules if name.partition(".")[0] == tracker]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.delitem(sys.modules, f"finetune.run.tracking.{tracker}", raising=False)
        monkeypatch.setitem(sys.modules, tracker, None)
        code, _, err = finetune("train", "--preset", "smoke", "--track", tracker, "--out", "run")
        assert code == 2
        assert f'pip install "finetune[{EXTRAS[tracker]}]"' in err
        assert not os.path.lexists("run")

    def test_unknown(self, finetune: Command) -> None:
        code, _, err = finetune("train", "--preset", "smoke", "--track", "abacus")
        assert code == 2
        assert "abacus" in err
        Path("own.toml").write_text('track = ["abacus"]\n')
        code, _, err = finetune("train", "--preset", "own.toml")
        assert code == 2
        assert "track must be a list of tensorboard and mlflow" in err
