"""Tiny experiments, image folders and a web server for the tests of finetune."""

from __future__ import annotations

import contextlib
import functools
import gc
import http.server
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import sklearn.datasets
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from finetune.cli import app as cli
from finetune.config.experiment import STANDARD_VARIANTS, ExperimentConfig
from finetune.network.resnet18 import Network
from finetune.run import environment
from finetune.run import experiment as experiment_module
from finetune.run.experiment import run_experiment
from finetune.system import files
from finetune.system.signals import Stopped, StopRequest
from tests.finetune.helpers import Quiet, tiny

torch.set_num_threads(1)

Command = Callable[..., tuple[int, str, str]]
"""What the fixture `finetune` gives."""


def _narrow_init(self: ResNet, block: type[BasicBlock], layers: list[int], num_classes: int) -> None:
    """ResNet-18 with an eighth of the blocks' parameters' square root: same names, 60,000 parameters."""
    nn.Module.__init__(self)
    self.conv1 = nn.Conv2d(3, 4, kernel_size=7, stride=2, padding=3, bias=False)
    self.bn1 = nn.BatchNorm2d(4)
    self.relu = nn.ReLU(inplace=True)
    self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
    self._norm_layer = nn.BatchNorm2d
    self.inplanes, self.dilation, self.groups, self.base_width = 4, 1, 1, 64
    for number, blocks in enumerate(layers):
        setattr(
            self, f"layer{number + 1}", self._make_layer(block, 4 << number, blocks, 1 if number == 0 else 2)
        )
    self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
    self.fc = nn.Linear(32, num_classes)


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared disk makes fsync take a second at times; the tests of files see to it that it is called."""
    if "test_files" not in request.module.__name__:
        monkeypatch.setattr(files.os, "fsync", lambda _: None)


_digits = functools.cache(sklearn.datasets.load_digits)


def _narrowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """ResNet-18 with few channels, no pictures, digits read once: an experiment in a fraction of a second."""
    monkeypatch.setattr(ResNet, "__init__", _narrow_init)
    monkeypatch.setattr(environment, "_git", lambda *_: None)
    monkeypatch.setattr(experiment_module, "curves", lambda _, path: path.write_bytes(b"a picture"))
    monkeypatch.setattr(sklearn.datasets, "load_digits", _digits)
    monkeypatch.setattr(files.os, "fsync", lambda _: None)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give ResNet-18 few channels, so that an experiment takes a fraction of a second."""
    _narrowed(monkeypatch)


@pytest.fixture(scope="session")
def _narrow_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "narrow.safetensors"
    with pytest.MonkeyPatch.context() as monkeypatch:
        _narrowed(monkeypatch)
        torch.manual_seed(3)
        path.write_bytes(safetensors.torch.save(dict(Network(10).state_dict())))
    return path


@pytest.fixture
def narrow_weights(narrow: None, _narrow_file: Path) -> Path:  # noqa: ARG001 - wanted for its effect
    """A weights file that fits the narrow network with ten classes; not to be changed."""
    return _narrow_file


@pytest.fixture
def experiment(narrow_weights: Path) -> Callable[..., dict[str, Any]]:
    """Runs a tiny experiment with the narrow network in a folder; fields of the configuration as keywords."""

    def run(
        out: Path, *, stop: StopRequest | None = None, resume: bool = False, **fields: Any
    ) -> dict[str, Any]:
        config = tiny(**{"weights": str(narrow_weights), **fields})
        return run_experiment(config, out, Quiet(), stop or StopRequest(), resume)

    return run


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


class StopAt(StopRequest):
    """A signal that comes during the n-th piece of work between two safe points."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.left = n

    def check(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Stopped(signal.SIGTERM)


@pytest.fixture(scope="session")
def stopped_at(
    tmp_path_factory: pytest.TempPathFactory, _narrow_file: Path
) -> Callable[[Path, int], dict[str, Any] | None]:
    """Copies the run folder of an experiment with A and C stopped at its n-th safe point, or never."""
    made: dict[int, tuple[Path, dict[str, Any] | None]] = {}

    def copy(out: Path, n: int) -> dict[str, Any] | None:
        if n not in made:
            folder, record = tmp_path_factory.mktemp("stopped") / "run", None
            a, _, c = STANDARD_VARIANTS
            with pytest.MonkeyPatch.context() as monkeypatch, contextlib.suppress(Stopped):
                _narrowed(monkeypatch)
                config = tiny(weights=str(_narrow_file), variants=(a, c))
                record = run_experiment(config, folder, Quiet(), StopAt(n))
            made[n] = folder, record
        shutil.copytree(made[n][0], out)
        return made[n][1]

    return copy


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, ExperimentConfig, dict[str, Any], Quiet]:
    """Run folder, configuration, results and what was said of A, B and C with the real ResNet-18."""
    out = tmp_path_factory.mktemp("finished") / "run"
    config = tiny(weights="bundled")
    reporter = Quiet()
    record = run_experiment(config, out, reporter, StopRequest())
    return out, config, record, reporter


class Server:
    """A web server on this machine that answers every path as its name says."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.closing = threading.Event()
        handler = type("Handler", (_Handler,), {"served": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = False  # so that closing waits for them
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Stop and free the port."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    served: Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.served.asked.append(self.path)
        fault, _, name = self.path.strip("/").partition("/")
        if fault.isdigit():
            self.send_error(int(fault))
        elif fault == "loop":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.end_headers()
        elif fault == "stall":
            self.served.closing.wait(30)
        elif fault == "html":
            self._send(b"<html>Please sign in to the proxy.</html>")
        elif fault == "cut":
            self._send(self.served.files.get(name, b"x" * 1000), announced=100_000)
        else:
            self._send(self.served.files[name])

    def _send(self, body: bytes, announced: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(announced or len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A local web server: /404/x, /500/x, /loop/x, /stall/x, /html/x, /cut/x, and /ok/NAME for its files."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    running = Server()
    yield running
    running.close()
    gc.collect()  # sockets that urllib forgot are found in the test that made them
