"""The run folder: the names of its files, its lock, and everything that is read from it or written into it.

    RUN/
      config.toml                     the resolved configuration; the run has started once it exists
      results.json                    the results so far, rewritten after each run
      report.html                     what the run found, for people
      predictions/A-seed0-val.csv     predictions of each run's chosen epoch, also -test.csv
      checkpoints/A-seed0.safetensors the network after each run's chosen epoch
      states/A-seed0-epoch3.safetensors network and momentum after an epoch, if states are kept
      shard.json                      the runs assigned to this folder, if it is a shard
      state/                          resume points and identity.json, until all runs have ended
      .lock                           held by the process that writes

Each file is written under another name and then renamed, so that a reader never sees half of one. What is
written and read is checked by the grader's own code.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import cast

import tomli_w

from finetune.config.experiment import ExperimentConfig
from finetune.config.presets import load_preset, to_table
from finetune.errors import RunFolderError, listed
from finetune.report.judged import POLICY
from finetune.report.page import REPORT_NAME
from finetune.run import identity, records
from finetune.run.records import Document, Json, Shard
from finetune.system import host
from finetune.system.files import bytes_below, locked, write_atomically
from finetune.training.checkpoint import Checkpoints
from grader.errors import UnusableError
from grader.grading.grade import Job, grade
from grader.grading.policy import load_policy
from grader.grading.verdict import Grade
from grader.reading.files import below, read_bytes
from grader.reading.strict_json import MAX_BYTES
from grader.submission import load
from grader.submission.checkpoints import MAX_CHECKPOINT_BYTES
from grader.submission.parts import Artifact
from grader.submission.record import Results, results_from, run_name
from grader.submission.recorded_files import RecordedFiles

CHECKPOINT_BYTES = 45 << 20
"""A ResNet-18 on disk, rounded up."""

STATE_BYTES = 8 * CHECKPOINT_BYTES
"""Two resume points (network and momentum), the best epochs they refer to, and one being written."""

ARTIFACTS = {
    "val_predictions": "predictions/{}-val.csv",
    "test_predictions": "predictions/{}-test.csv",
    "checkpoint": "checkpoints/{}.safetensors",
}
"""The files of each run, by the run's name."""

LEFTOVERS = (".lock", "config.toml.partial", "shard.json", "shard.json.partial")
"""What a process killed before it wrote config.toml may have left."""


class RunFolder:
    """One run folder; the module says what is in it.

    Args:
        path: where it is, or will be.
        writes: False in processes that train together with the one that writes: they only read, and
            methods that write, lock or remove do nothing.
    """

    def __init__(self, path: Path, writes: bool = True) -> None:
        self.path = path
        self.writes = writes
        self.config_file = path / "config.toml"
        self.results_file = path / load.RESULTS_NAME
        self.report_file = path / REPORT_NAME
        self.shard_file = path / "shard.json"
        self.state = path / "state"
        self.identity_file = self.state / "identity.json"

    def check_room(self, n_runs: int, n_states: int = 0) -> None:
        """Check that the folder can be written and the disk has space for runs with so many states each.

        A job that is resumed needs no space again for what the folder holds.

        Raises:
            RunFolderError: one of them does not hold.
        """
        if self.writes:
            n_bytes = STATE_BYTES + n_runs * (1 + 2 * n_states) * CHECKPOINT_BYTES
            left = max(n_bytes - bytes_below(self.path), 2 * CHECKPOINT_BYTES)  # at least a resume point
            host.check_writable(self.path, "run folder", left)

    def require_new(self, *also: str) -> None:
        """Check that the folder is absent or empty, except for entries with names in `also`.

        Raises:
            RunFolderError: it has other content.
        """
        allowed = {*LEFTOVERS, *also}
        present = self.path.iterdir() if self.writes and self.path.is_dir() else ()
        others = sorted(path.name for path in present if path.name not in allowed)
        if others:
            resume = f", or resume its run: finetune train --resume {quote(str(self.path))}"
            raise RunFolderError(
                f"--out must name a new or empty folder, but {self.path} has content ({listed(others, 3)}); "
                f"name another one{resume if self.config_file.name in others else ''}."
            )

    def locked(self) -> AbstractContextManager[None]:
        """Hold the folder for this process alone; it is made if it does not exist.

        Raises:
            RunFolderError: another process holds it, or it cannot be written.
        """
        return locked(self.path) if self.writes else nullcontext()

    def begin(self, config: ExperimentConfig, shard: Shard | None = None) -> None:
        """Write the configuration into a new folder, and which runs belong here if it is a shard.

        Raises:
            RunFolderError: the folder has content, or cannot be written.
        """
        self.require_new()
        if shard is not None:
            self._write(self.shard_file, json.dumps(dataclasses.asdict(shard)).encode())
        self.write_config(config)

    def write_config(self, config: ExperimentConfig) -> None:
        """Write config.toml, with absolute paths, so that it can be used from any working directory."""
        self._write(self.config_file, tomli_w.dumps(to_table(records.with_absolute_paths(config))).encode())

    def remove_state(self) -> None:
        """Remove what only a resumed run would need."""
        if self.writes:
            shutil.rmtree(self.state, ignore_errors=True)

    def remove_checkpoints(self, run: Json) -> None:
        """Remove the resume points of a run that has ended."""
        if self.writes:
            Checkpoints(self.state, run_name(run["variant"], run["seed"])).clear()

    def has_results(self) -> bool:
        """Whether there is a results.json, readable or not."""
        return os.path.lexists(self.results_file)

    def submission(self) -> load.Submission:
        """The content of results.json, as the grader reads it: the document and its records.

        Raises:
            RunFolderError: there is none, or the grader would not accept it.
        """
        if not self.has_results():
            raise RunFolderError(f"{self.path} must be a run folder with a results.json, but it has none.")
        file = self.results_file
        try:
            document = load.check(read_bytes(file, file.name, MAX_BYTES), file.name)
            results = results_from(document)
            for run in results.runs:
                if run.best_epoch is not None and run.best is None:
                    raise UnusableError([f"{run.name} has no epoch {run.best_epoch}"])
        except UnusableError as error:
            raise RunFolderError(
                f"{file} must be a results file that finetune wrote ({error.first}); restore it, or name "
                "another run."
            ) from error
        return load.Submission(self.path, results, document)

    def read(self) -> Document:
        """The content of results.json; raises as `submission` does."""
        return cast("Document", self.submission().document)

    def results(self) -> Results:
        """The content of results.json as the grader's records; raises as `submission` does."""
        return self.submission().results

    @cached_property
    def grade(self) -> Grade:
        """Its grade under the default policy, whatever it holds; judged when it is first asked for."""
        return grade(Job(self.path, self.path.name, load_policy(POLICY)))

    def config(self) -> ExperimentConfig:
        """The configuration that the run started with.

        Raises:
            ConfigError: config.toml is missing or damaged.
        """
        return load_preset(str(self.config_file))

    def shard(self) -> Shard | None:
        """The runs assigned to this folder; None if it is not a shard.

        Raises:
            RunFolderError: shard.json is damaged.
        """
        return records.read_json(self.shard_file, Shard.read)

    def artifact_file(self, path: str) -> Path:
        """The file that the results name by a path relative to the folder.

        Raises:
            RunFolderError: the path leads out of the folder, or passes through a symbolic link.
        """
        try:
            return below(self.path, path, self.results_file.name)
        except UnusableError as error:
            raise RunFolderError(
                f"A run's files must be inside its folder {self.path}, but {error.first}."
            ) from error

    def read_artifact(self, artifact: Json) -> bytes:
        """The content of a file that the results name.

        Raises:
            RunFolderError: it is outside the folder, cannot be read, or is not the one recorded.
        """
        recorded = Artifact(artifact["path"], artifact["sha256"])
        try:
            return RecordedFiles(self.path, 2 * MAX_CHECKPOINT_BYTES).read(recorded, self.results_file.name)
        except UnusableError as error:
            raise RunFolderError(
                f"{error.first} (in the run folder {self.path}); put it back or train again."
            ) from error

    def resume(self, record: Document) -> tuple[list[Json], float]:
        """Check that the folder holds the same experiment, and return what has ended.

        Args:
            record: the results of the resuming process, without runs.

        Returns:
            Entries of the runs that have ended, and the seconds spent so far.

        Raises:
            RunFolderError: the folder holds an experiment with other images, weights or configuration, or a
                file of it is damaged.
        """
        for folder in (self.state, self.path / "predictions", self.path / "checkpoints"):
            if folder.is_symlink():
                raise RunFolderError(
                    f"A run's files must be inside its folder, but {folder} is a link; start a new run."
                )
        before = self.read() if self.has_results() else None
        began = before or records.read_json(self.identity_file, identity.identity_of) or record
        identity.require_same(began, record, self.path)
        return (before["runs"], before["timings"]["total_seconds"]) if before else ([], 0.0)

    def write_identity(self, record: Document) -> None:
        """Remember what the experiment is made of, so that `resume` can compare it."""
        self._write(self.identity_file, json.dumps(identity.identity_of(record)).encode())

    def write_results(self, document: Document) -> None:
        """Check the results with the grader's code and write results.json.

        Raises:
            RunFolderError: the file cannot be written.
            AssertionError: the grader would not accept them, which is a bug; they are written beside it.
        """
        document["created_at"] = records.now()
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            load.check(text.encode(), self.results_file.name)
        except UnusableError as error:
            self._write(self.path / "results.invalid.json", text.encode())
            raise AssertionError(f"the grader would not accept the results: {error}") from error
        self._write(self.results_file, text.encode())

    def write_artifact(self, stem: str, name: str, content: bytes) -> Json:
        """Write one of the `ARTIFACTS` of a run; its entry in the results."""
        folder, _, file = ARTIFACTS[name].format(stem).partition("/")
        digest = self._write(self.artifact_file(folder) / file, content)
        return {"path": f"{folder}/{file}", "sha256": digest}

    def write_state(self, stem: str, epoch: int, content: bytes) -> None:
        """Write the training state of a run after an epoch; it stays with the results."""
        self._write(self.artifact_file("states") / f"{stem}-epoch{epoch}.safetensors", content)

    def _write(self, file: Path, content: bytes) -> str:
        """Write a file, whole or not at all; its SHA-256."""
        return write_atomically(file, content) if self.writes else ""
