"""MLflow: a parent run for the job, and a run below it for each variant and seed.

The client is used without MLflow's global state, and sends nothing anywhere unless MLFLOW_TRACKING_URI names
a server.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.data.datasets import SPLIT_NAMES
from finetune.errors import ConfigError
from finetune.report.judged import JudgedRun
from finetune.report.settings import flat, shown
from finetune.run.records import Document, Json
from finetune.run.tracking.trackers import best_accuracies
from finetune.system.files import write_atomically
from grader.submission.record import run_name

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when MLflow is imported

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

STORE = "mlflow.db"
ARTIFACTS = "mlflow-artifacts"
RUNS_FILE = "mlflow.json"
"""In the run folder: which runs of the store are the job's, so that a resumed job goes on with them."""

EXPERIMENT = "finetune"
KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Lets MLflow 3 open the experiment with runs and metrics; without it, with pages on prompts and traces."""

LONGEST = 500
"""Characters of a parameter or tag; the smallest limit of MLflow's stores."""

JOB = "job"


class MLflow:
    """Writes runs into an MLflow store; see `Tracker`.

    Args:
        out: run folder.
        config: the `config` object of the results.

    Raises:
        ConfigError: the store cannot be used.
    """

    def __init__(self, out: Path, config: Json) -> None:
        self.out = out
        self._config = config
        parent = out.absolute().parent
        given = os.environ.get("MLFLOW_TRACKING_URI")
        self._uri = given or f"sqlite:///{parent / STORE}"
        for name in ("alembic", "mlflow"):
            logging.getLogger(name).setLevel(logging.WARNING)  # creating a store takes dozens of lines
        self._file = out / RUNS_FILE
        self._logged: dict[str, int] = {}
        try:
            if given is None:
                parent.mkdir(parents=True, exist_ok=True)
            self._client = MlflowClient(tracking_uri=self._uri)
            self._experiment = self._experiment_id(None if given else (parent / ARTIFACTS).as_uri())
            self._runs = self._remembered()
            self._run(JOB)
        except ModuleNotFoundError:
            raise
        except Exception as error:  # of whatever the store is made of: SQLAlchemy, requests, files
            reason = str(error).splitlines()[0].rstrip(".")
            raise ConfigError(
                f"--track mlflow needs a store that can be written, but {_without_password(self._uri)} "
                f"cannot be used ({_without_password(reason)}); check MLFLOW_TRACKING_URI, or leave "
                "--track out."
            ) from error

    def __str__(self) -> str:
        return f"mlflow ui --backend-store-uri {_without_password(self._uri)}"

    def epochs(self, run: Json, epochs: Sequence[Json]) -> None:
        """Metrics by epoch; an epoch is written as a whole, and once."""
        stem = run_name(run["variant"], run["seed"])
        run_id = self._run(stem, run)
        if stem not in self._logged:
            history = self._client.get_metric_history(run_id, "learning_rate")
            self._logged[stem] = max((metric.step for metric in history), default=0)
        for epoch in epochs[self._logged[stem] :]:
            now, step = int(time.time() * 1000), epoch["epoch"]
            metrics = [Metric(name, value, now, step) for name, value in _metrics(epoch)]
            self._client.log_batch(run_id, metrics=metrics)
            self._logged[stem] = step

    def ended(self, run: Json) -> None:
        """The chosen epoch and the status."""
        run_id = self._run(run_name(run["variant"], run["seed"]), run)
        if "best_test_accuracy" not in self._client.get_run(run_id).data.metrics:
            for split, accuracy in best_accuracies(run).items():
                self._client.log_metric(run_id, f"best_{split}_accuracy", accuracy, step=run["best_epoch"])
        tags = {"best_epoch": run["best_epoch"], "failure": run["failure"]}
        self._tag(run_id, {name: value for name, value in tags.items() if value is not None})
        self._client.set_terminated(run_id, "FINISHED" if run["status"] == "completed" else "FAILED")

    def finished(self, document: Document, judged: JudgedRun) -> None:
        """The verdict with its intervals as tags, the results of the job, and its files."""
        run_id, grade = self._run(JOB), judged.grade
        tags: dict[str, Any] = {
            "mlflow.note.content": "\n\n".join(grade.verdict),  # shown as the run's description
            "verdict": " ".join(grade.verdict),
            "advised": grade.advised or "none",
        }
        for finding in grade.findings.values():
            if {"difference", "low", "high"} <= finding.numbers.keys():
                tags[finding.name] = f"{finding.status}: {finding.summary}"
                tags[f"{finding.name}.difference"] = finding.numbers["difference"]
                for limit in ("low", "high"):  # of the interval in the summary and in the verdict
                    value = finding.numbers.get(f"corrected_{limit}", finding.numbers[limit])
                    tags[f"{finding.name}.{limit}"] = value
        self._tag(run_id, tags)
        for row in judged.rows:
            self._client.log_metric(run_id, f"test_accuracy_{row.name}", row.accuracy("test"), step=0)
        for name in ("results.json", "report.html", "config.toml"):
            if (self.out / name).is_file():
                self._client.log_artifact(run_id, str(self.out / name))
        failed = any(run["status"] != "completed" for run in document["runs"])
        self._client.set_terminated(run_id, "FAILED" if failed else "FINISHED")

    def _experiment_id(self, artifacts: str | None) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        made = self._client.create_experiment(name, artifact_location=artifacts, tags=KIND)
        return str(made)

    def _run(self, stem: str, run: Json | None = None) -> str:
        """The id of a run in the store: as remembered, or of one that is created now."""
        if stem not in self._runs:
            self._runs[stem] = self._create(stem, run)
            write_atomically(self._file, json.dumps(self._runs).encode())
        return self._runs[stem]

    def _remembered(self) -> dict[str, str]:
        """What the run folder remembers, as far as the store still has it."""
        try:
            found = json.loads(self._file.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        known: dict[str, str] = {}
        for stem, run_id in found.items() if isinstance(found, dict) else ():
            try:
                if self._client.get_run(str(run_id)).info.lifecycle_stage == "active":
                    known[stem] = str(run_id)
            except MlflowException:
                continue  # deleted, or of another store
        return known

    def _create(self, stem: str, run: Json | None) -> str:
        tags = {"mlflow.source.name": "finetune train", "mlflow.source.type": "LOCAL"}
        if run is None:
            made = self._client.create_run(self._experiment, tags=tags, run_name=self.out.absolute().name)
            values = {k: v for k, v in flat(self._config).items() if not k.startswith("variants.")}
        else:
            tags["mlflow.parentRunId"] = self._run(JOB)
            made = self._client.create_run(self._experiment, tags=tags, run_name=stem)
            values = {key: run[key] for key in ("variant", "seed", "init", "learning_rate", "n_trained")}
            values["trained_groups"] = run["trained_groups"]
        params = [Param(key, shown(value)[:LONGEST]) for key, value in values.items()]
        self._client.log_batch(made.info.run_id, params=params)
        return str(made.info.run_id)

    def _tag(self, run_id: str, tags: Mapping[str, Any]) -> None:
        self._client.log_batch(run_id, tags=[RunTag(k, _tag_text(v)) for k, v in tags.items()])


def _without_password(text: str) -> str:
    return re.sub(r"://[^/@\s]*@", "://...@", text)


def _tag_text(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 5000 else text[:4999] + "…"


def _metrics(epoch: Json) -> Iterator[tuple[str, float]]:
    for split in SPLIT_NAMES:
        values = epoch[split]
        yield f"{split}_accuracy", values["n_correct"] / values["n_samples"]
        yield f"{split}_loss", values["loss_sum"] / values["n_samples"]
    for name in ("learning_rate", "train_seconds"):
        yield name, epoch[name]
