"""The command as a whole: help, exit codes, errors in one sentence, closed pipes, missing packages."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune import __version__
from finetune.cli import app, presets
from tests.builders.runs import Command

Process = Callable[..., subprocess.CompletedProcess[str]]

COMMANDS = ["train", "evaluate", "merge", "profile", "data prepare", "data list", "data clear", "layers"]


@pytest.mark.parametrize("command", ["", "data", "presets", *COMMANDS])
def test_help(finetune: Command, command: str) -> None:
    code, out, _ = finetune(*command.split(), "--help")
    assert code == 0
    assert out.startswith("Usage: ")


def test_presets(finetune: Command) -> None:
    code, out, _ = finetune("presets")
    assert code == 0
    assert re.search(r"^smoke +\S", out, re.M)
    assert re.search(r"^flowers102 +\S", out, re.M)


class TestErrors:
    def test_keyboard_interrupt(self, finetune: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted() -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(presets, "preset_names", interrupted)
        assert finetune("presets")[0] == 130

    def test_a_full_gpu(self, finetune: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        class OutOfMemoryError(RuntimeError):  # as torch names its own
            pass

        def full() -> None:
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        monkeypatch.setattr(presets, "preset_names", full)
        code, _, err = finetune("presets")
        assert code == 2
        assert err == (
            "Error: This command needs more memory than the GPU has free; stop what else uses the GPU, or "
            "use --device cpu.\n"
        )

    @pytest.mark.parametrize(
        "bug",
        [
            KeyError("bug"),
            RuntimeError("bug"),
            ModuleNotFoundError("No module", name="finetune.no"),
            ModuleNotFoundError("No module", name="torch.no"),
            ModuleNotFoundError("no name"),
        ],
    )
    def test_bugs_are_not_hidden(self, monkeypatch: pytest.MonkeyPatch, bug: Exception) -> None:
        def broken() -> None:
            raise bug

        monkeypatch.setattr(presets, "preset_names", broken)
        monkeypatch.setattr(sys, "argv", ["finetune", "presets"])
        with pytest.raises(type(bug)):
            app.main()

    def test_an_error_is_one_line_on_standard_error(self, process: Process) -> None:
        ended = process("-m", "finetune", "train", "--epochs", "0")
        assert (ended.returncode, ended.stdout) == (2, "")
        assert ended.stderr == "Error: epochs must be a whole number of at least 1, but 0 was given.\n"

    def test_version(self, process: Process) -> None:
        ended = process("-m", "finetune", "--version")
        assert ended.returncode == 0
        assert __version__ in ended.stdout


BASE_ONLY = """
import sys
EXTRA = "torch", "torchvision", "psutil", "PIL", "safetensors", "sklearn", "tomli_w", "jinja2"
class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name in EXTRA:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, NotInstalled())
from finetune.cli import main
sys.argv = ["finetune", *sys.argv[1:]]
main()
"""
"""The command with the base installation alone."""


@pytest.mark.parametrize("command", ["train", "data prepare"])
def test_a_default_refers_to_options_that_the_command_has(finetune: Command, command: str) -> None:
    text = finetune(*command.split(), "--help")[1]
    assert ("same as --threads" in " ".join(text.split())) == ("--threads INTEGER" in text)


class TestBaseInstallation:
    @pytest.mark.parametrize(
        "words",
        [
            "train",
            "evaluate run --output out",
            "merge run --out out",
            "report run",
            "profile",
            "data prepare",
            "data list",
            "data clear",
        ],
    )
    def test_a_command_that_trains_names_the_extra(self, process: Process, words: str) -> None:
        ended = process("-c", BASE_ONLY, *words.split())
        assert (ended.returncode, ended.stdout) == (2, "")
        assert re.fullmatch(
            r"Error: This command needs more than the base installation, but \w+ is not installed; "
            r'run: pip install "finetune\[train\]"\.\n',
            ended.stderr,
        )

    @pytest.mark.parametrize(
        ("words", "code"),
        [
            ("--help", 0),
            ("train --help", 0),
            ("presets", 0),
            ("layers", 0),
            ("train --epochs 0", 2),
            ("train --nope", 2),
        ],
    )
    def test_the_rest_works_without_it(self, process: Process, words: str, code: int) -> None:
        ended = process("-c", BASE_ONLY, *words.split())
        assert ended.returncode == code
        assert "Traceback" not in ended.stderr
        assert "pip install" not in ended.stderr


class TestClosedPipes:
    """As in `finetune ... | head -1`, with the real thing."""

    @staticmethod
    def run(*arguments: str, folder: Path, lines: int) -> int:
        """The exit code of a command whose output and errors are read up to some line."""
        command = [sys.executable, "-m", "finetune", *arguments]
        environ = os.environ | {"PYTHONPATH": str(Path(app.__file__).parents[2])}
        with subprocess.Popen(
            command, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as running:
            assert running.stdout is not None
            for _ in range(lines):
                assert running.stdout.readline()
            running.stdout.close()
            return running.wait(300)  # PyTorch starts slowly on a busy machine

    def test_training_continues(self, tiny: list[str], tmp_path: Path) -> None:
        options = [*tiny, "--epochs", "1", "--weights", "bundled", "--variants", "c", "--out", "run"]
        assert self.run("train", *options, folder=tmp_path, lines=1) == 0
        record = json.loads((tmp_path / "run" / "results.json").read_text())
        assert [(run["variant"], run["status"]) for run in record["runs"]] == [("C", "completed")]
        assert (tmp_path / "run" / "report.html").is_file()

    @pytest.mark.parametrize(("words", "code"), [("presets", 0), ("--help", 0), ("train --nope", 2)])
    def test_a_short_command_ends_as_usual(self, tmp_path: Path, words: str, code: int) -> None:
        assert self.run(*words.split(), folder=tmp_path, lines=0) == code

    def test_a_closed_pipe_is_silent(self, tmp_path: Path) -> None:
        with (tmp_path / "errors").open("wb") as errors:
            read, write = os.pipe()
            os.close(read)
            try:
                command = [sys.executable, "-m", "finetune", "presets"]
                ended = subprocess.run(command, stdout=write, stderr=errors, timeout=60, check=False)
            finally:
                os.close(write)
        assert ended.returncode == 0
        assert (tmp_path / "errors").read_bytes() == b""

    def test_a_full_disk_behind_standard_output_is_reported_once(self) -> None:
        command = [sys.executable, "-m", "finetune", "presets"]
        with Path("/dev/full").open("wb") as full:
            ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=60, check=False)
        assert ended.returncode == 0
        assert ended.stderr == b"The rest of the output is lost: No space left on device.\n"


class TestStart:
    @pytest.mark.parametrize("words", ["--help", "presets", "train --epochs 0", "train --nope"])
    def test_needs_no_torch(self, process: Process, words: str) -> None:
        program = (
            f"import sys\nfrom finetune.cli import main\nsys.argv = ['finetune', *{words.split()}]\n"
            "try:\n    main()\nexcept SystemExit:\n    print('torch:', 'torch' in sys.modules)\n"
        )
        assert process("-c", program).stdout.endswith("torch: False\n")

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ({}, ("PASSIVE", "1000")),
            ({"GOMP_SPINCOUNT": "7"}, ("PASSIVE", "7")),
            ({"OMP_WAIT_POLICY": "ACTIVE"}, ("ACTIVE", None)),
        ],
    )
    def test_lets_idle_threads_sleep_unless_configured_otherwise(
        self,
        finetune: Command,
        monkeypatch: pytest.MonkeyPatch,
        given: dict[str, str],
        expected: tuple[str, str | None],
    ) -> None:
        names = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
        for name in names:
            monkeypatch.setenv(name, given.get(name, ""))  # noted, so that the end of the test restores it
            if name not in given:
                monkeypatch.delenv(name)
        assert finetune("presets")[0] == 0
        assert tuple(map(os.environ.get, names)) == expected
