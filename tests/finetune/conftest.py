"""Tiny experiments, image folders and a web server for the tests of finetune."""

from __future__ import annotations

import contextlib
import gc
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.cli import app as cli
from finetune.config.experiment import STANDARD_VARIANTS, ExperimentConfig
from finetune.run import experiment as experiment_module
from finetune.run.experiment import run_experiment
from finetune.system.signals import Stopped, StopRequest
from tests.builders.config import tiny_config
from tests.builders.images import image_tree
from tests.builders.networks import use_narrow_network
from tests.builders.runs import Command, RecordingReporter, StopAt
from tests.builders.server import Server

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(request: pytest.FixtureRequest) -> None:
    """The tests of files see to it that fsync is called."""
    if "test_files" not in request.module.__name__:
        request.getfixturevalue("no_fsync")


@pytest.fixture
def narrow(narrow: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001 - extends it
    """The same, and without a report, which takes longest."""
    monkeypatch.setattr(experiment_module, "write_report", lambda _, path: path.write_bytes(b"a page"))


@pytest.fixture
def finetune(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Runs a command line in this process and in this test's folder: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["finetune", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, err

    return run


@pytest.fixture(scope="session")
def stopped_at(
    tmp_path_factory: pytest.TempPathFactory, narrow_file: Path
) -> Callable[[Path, int], dict[str, Any] | None]:
    """Copies the run folder of an experiment with A and C stopped at its n-th safe point, or never."""
    made: dict[int, tuple[Path, dict[str, Any] | None]] = {}

    def copy(out: Path, n: int) -> dict[str, Any] | None:
        if n not in made:
            folder, record = tmp_path_factory.mktemp("stopped") / "run", None
            a, _, c = STANDARD_VARIANTS
            with pytest.MonkeyPatch.context() as monkeypatch, contextlib.suppress(Stopped):
                use_narrow_network(monkeypatch, draw=False)
                config = tiny_config(weights=str(narrow_file), variants=(a, c))
                record = run_experiment(config, folder, RecordingReporter(), StopAt(n))
            made[n] = folder, record
        shutil.copytree(made[n][0], out)
        return made[n][1]

    return copy


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, ExperimentConfig, dict[str, Any], RecordingReporter]:
    """Run folder, configuration, results and what was said of A, B and C with the real ResNet-18."""
    out = tmp_path_factory.mktemp("finished") / "run"
    config = tiny_config(weights="bundled")
    reporter = RecordingReporter()
    record = run_experiment(config, out, reporter, StopRequest())
    return out, config, record, reporter


@pytest.fixture(scope="session")
def photos_run(tmp_path_factory: pytest.TempPathFactory, narrow_file: Path) -> tuple[Path, Path]:
    """Run folder of B and C with the narrow network, and the photos of cats and dogs; not to be changed."""
    root = tmp_path_factory.mktemp("photos_run")
    photos = image_tree(root / "photos", {"cat": 14, "dog": 14})
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_narrow_network(monkeypatch, draw=False)
        config = tiny_config(
            dataset=f"imagefolder:{photos}",
            weights=str(narrow_file),
            subset=None,
            precision="fp32",
            lr=0.001,
            image_size=32,
        ).pick("b,c")
        run_experiment(config, root / "run", RecordingReporter(), StopRequest())
    return root / "run", photos


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A local web server: /404/x, /500/x, /loop/x, /stall/x, /html/x, /cut/x, and /ok/NAME for its files."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    running = Server()
    yield running
    running.close()
    gc.collect()  # sockets that urllib forgot are found in the test that made them
