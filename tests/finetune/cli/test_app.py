"""The command line: exit codes, and errors in one sentence."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torchvision.datasets import Flowers102

from finetune import __version__
from finetune.cli import app as cli
from finetune.network import weights
from finetune.run import experiment as experiment_module
from finetune.system import download as network
from tests.builders.images import image_tree
from tests.builders.runs import Command
from tests.builders.server import Server
from tests.compare_runs import file_digests, without_times

Copy = Callable[[Path, int], dict[str, Any] | None]

TINY = ["--dataset", "digits", "--subset", "2", "--device", "cpu", "--workers", "1", "--epochs", "2"]
TINY += ["--batch-size", "8", "--image-size", "16", "--lr", "0.02"]


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def refused(result: tuple[int, str, str]) -> str:
    """The one sentence of a command line that was refused."""
    code, _, err = result
    assert code == 2
    assert "Traceback" not in err
    lines = err.strip().splitlines()
    assert lines[-1].startswith("Error: ")
    if not lines[0].startswith("Usage:"):
        progress = [line for line in lines if re.fullmatch(r"[\d.]+%", line)]  # of a download
        assert len(lines) == 1 + len(progress), err
    return lines[-1].removeprefix("Error: ")


class TestTrain:
    def test_done(self, finetune: Command, narrow_weights: Path, tmp_path: Path) -> None:
        code, out, err = finetune("train", *TINY, "--weights", str(narrow_weights), "--out", "run")
        assert (code, err) == (0, "")
        record = json.loads((tmp_path / "run" / "results.json").read_text())
        assert [r["variant"] for r in record["runs"]] == ["A", "B", "C"]
        assert record["config"]["recipe"]["image_size"] == 16
        assert "trained parameters" in out
        assert "\x1b" not in out  # plain lines where there is no terminal

    def test_runs_have_a_place_of_their_own(
        self, finetune: Command, narrow_weights: Path, tmp_path: Path
    ) -> None:
        code, _, _ = finetune("train", *TINY, "--weights", str(narrow_weights), "--variants", "c")
        assert code == 0
        (out,) = (tmp_path / "runs").iterdir()
        assert re.fullmatch(r"digits-\d{8}-\d{6}", out.name)

    def test_a_variant_that_failed(self, finetune: Command, narrow_weights: Path, tmp_path: Path) -> None:
        (tmp_path / "own.toml").write_text("[variants.A]\nlr = 1e12\n")
        options = [o for o in TINY if o not in ("--lr", "0.02")]
        code, out, _ = finetune(
            "train", "--preset", "own.toml", *options, "--weights", str(narrow_weights), "--out", "run"
        )
        assert code == 1
        assert "failed" in out
        record = json.loads((tmp_path / "run" / "results.json").read_text())
        assert [r["status"] for r in record["runs"]] == ["failed", "completed", "completed"]

    @pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_interrupted_and_resumed(
        self,
        finetune: Command,
        narrow_weights: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        number: int,
        expected: int,
    ) -> None:
        options = ("train", *TINY, "--variants", "a,c", "--weights", str(narrow_weights), "--out")
        assert finetune(*options, "whole")[0] == 0
        real, asked = experiment_module.epoch_line, []

        def interrupting(*arguments: Any) -> str:
            if not asked:
                asked.append(number)
                os.kill(os.getpid(), number)
            return real(*arguments)

        monkeypatch.setattr(experiment_module, "epoch_line", interrupting)
        code, _, err = finetune(*options, "runs/it")
        assert code == expected
        assert err == "Interrupted. Go on with: finetune train --resume runs/it\n"
        code, out, _ = finetune("train", "--resume")  # the newest
        assert code == 0
        assert "resumed after 3 steps" in out
        one, two = (json.loads((tmp_path / d / "results.json").read_text()) for d in ("whole", "runs/it"))
        assert without_times(one) == without_times(two)
        assert file_digests(tmp_path / "whole") == file_digests(tmp_path / "runs" / "it")

    def test_keyboard_interrupt_elsewhere(self, finetune: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted() -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(cli, "preset_names", interrupted)
        assert finetune("presets")[0] == 130

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ({}, ("PASSIVE", "1000")),
            ({"GOMP_SPINCOUNT": "7"}, ("PASSIVE", "7")),
            ({"OMP_WAIT_POLICY": "ACTIVE"}, ("ACTIVE", None)),
        ],
    )
    def test_waiting_threads_soon_sleep_unless_told_otherwise(
        self,
        finetune: Command,
        monkeypatch: pytest.MonkeyPatch,
        given: dict[str, str],
        expected: tuple[str, str | None],
    ) -> None:
        names = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
        for name in names:
            monkeypatch.setenv(name, given.get(name, ""))  # noted, so that the end of the test puts it back
            if name not in given:
                monkeypatch.delenv(name)
        assert finetune("presets")[0] == 0
        assert tuple(map(os.environ.get, names)) == expected

    def test_bugs_are_not_hidden(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken() -> None:
            raise KeyError("bug")

        monkeypatch.setattr(cli, "preset_names", broken)
        monkeypatch.setattr(sys, "argv", ["finetune", "presets"])
        with pytest.raises(KeyError):
            cli.main()


class TestRefused:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--epochs", "0"], "epochs must be a whole number of at least 1, but 0 was given."),
            (["--epochs", "x"], "is not a valid integer"),
            (["--lr", "nan"], "lr must be a number above 0"),
            (["--seed", "-1"], "seed must be a whole number"),
            (["--seed", "99999999999999999999"], "seed must be a whole number"),
            (["--split", "50-50"], "is not one of"),
            (["--device", "tpu"], "is not one of"),
            (["--variants", "a,z"], "Each of --variants must be one of A, B, C, but 'z' was given."),
            (["--variants", ""], "Each of --variants must be one of A, B, C"),
            (["--preset", "nope"], "preset must be "),
            (["--preset", "nope.toml"], "The preset file nope.toml cannot be read"),
            (["--dataset", "mnist"], "dataset must be flowers102, digits or imagefolder:PATH, but 'mnist'"),
            (["--dataset", "imagefolder:nope"], "must name a folder, but nope is none; check the path."),
            (["--dataset", "digits", "--split", "official"], "--split official needs a data set that comes"),
            (["--dataset", "digits", "--weights", "nope.pth"], "nope.pth cannot be read"),
            (["--dataset", "digits", "--weights", "nope"], "--weights must be imagenet, bundled, a"),
            (["--nope"], "No such option"),
            (["--out"], "requires an argument"),
        ],
    )
    def test_options(self, finetune: Command, tmp_path: Path, options: list[str], message: str) -> None:
        assert message in refused(finetune("train", *options))
        assert not list(tmp_path.glob("**/*.toml"))

    def test_a_folder_with_content(self, finetune: Command, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "x").touch()
        assert "has content" in refused(finetune("train", *TINY, "--out", "run"))

    def test_a_file_as_folder(self, finetune: Command, tmp_path: Path) -> None:
        (tmp_path / "run").touch()
        assert "run" in refused(finetune("train", *TINY, "--out", "run"))

    @pytest.mark.parametrize(
        "option", [["--epochs", "3"], ["--out", "x"], ["--lr", "1"], ["--preset", "smoke"]]
    )
    def test_resume_takes_no_other_option(self, finetune: Command, option: list[str]) -> None:
        said = refused(finetune("train", "--resume", "run", *option))
        assert f"no other option can be given, but {option[0]} was" in said

    def test_resume_without_a_run(self, finetune: Command, tmp_path: Path) -> None:
        assert "there is none in runs/" in refused(finetune("train", "--resume"))
        assert "check the path" in refused(finetune("train", "--resume", "none"))
        (tmp_path / "empty").mkdir()
        assert "config.toml" in refused(finetune("train", "--resume", "empty"))

    @pytest.mark.usefixtures("narrow")
    def test_a_tampered_config(self, finetune: Command, stopped_at: Copy, tmp_path: Path) -> None:
        stopped_at(tmp_path / "run", 12)
        path = tmp_path / "run" / "config.toml"
        path.write_text(path.read_text().replace("epochs = 2", "epochs = 3"))
        assert "config.recipe.epochs was 2 and is 3" in refused(finetune("train", "--resume", "run"))

    def test_bad_images(self, finetune: Command, tmp_path: Path) -> None:
        image_tree(tmp_path / "pets", {"cat": 5, "dog": 5})
        (tmp_path / "pets" / "cat" / "bad.jpg").write_bytes(b"")
        said = refused(finetune("train", *TINY[2:], "--dataset", "imagefolder:pets", "--weights", "bundled"))
        assert "cat/bad.jpg (not an image)" in said
        assert not (tmp_path / "runs").exists()

    def test_weights_are_read_before_images_are_decoded(self, finetune: Command, tmp_path: Path) -> None:
        image_tree(tmp_path / "pets", {"cat": 5, "dog": 5})
        (tmp_path / "pets" / "cat" / "bad.jpg").write_bytes(b"")
        said = refused(finetune("train", *TINY[2:], "--dataset", "imagefolder:pets", "--weights", "no.pth"))
        assert "no.pth" in said

    @pytest.mark.parametrize("fault", ["404", "500", "html"])
    def test_no_network(
        self, finetune: Command, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
    ) -> None:
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
        monkeypatch.setattr(network, "STALL_SECONDS", 1.0)
        monkeypatch.setattr(weights, "IMAGENET_URL", f"{server.url}/{fault}/resnet18-f37072fd.pth")
        monkeypatch.setattr(Flowers102, "_download_url_prefix", f"{server.url}/{fault}/")
        assert "--weights bundled" in refused(finetune("train", *TINY, "--weights", "imagenet"))
        assert "--dataset digits" in refused(finetune("train"))


class TestOthers:
    def test_layers(self, finetune: Command) -> None:
        code, out, _ = finetune("layers")
        assert code == 0
        assert re.search(r"11,228,838\W+11,228,838\W+11,228,838\W+8,446,054", out)
        code, out, _ = finetune("layers", "--variant", "c", "--classes", "10")
        assert code == 0
        assert re.search(r"11,181,642\W+8,398,858", out)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--variant", "z"], "one of A, B, C, but 'z' was given"),
            (["--classes", "1"], "x>=2"),
            (["--preset", "none"], "preset must be"),
        ],
    )
    def test_layers_refused(self, finetune: Command, options: list[str], message: str) -> None:
        assert message in refused(finetune("layers", *options))

    def test_presets(self, finetune: Command) -> None:
        code, out, _ = finetune("presets")
        assert code == 0
        assert re.search(r"^smoke +\S", out, re.M)
        assert re.search(r"^flowers102 +\S", out, re.M)

    @pytest.mark.parametrize("command", [[], ["train"], ["layers"], ["presets"], ["evaluate"]])
    def test_help(self, finetune: Command, command: list[str]) -> None:
        code, out, _ = finetune(*command, "--help")
        assert code == 0
        assert out.startswith("Usage: ")

    @pytest.mark.usefixtures("narrow")
    def test_evaluate_makes_the_predictions_afresh(
        self,
        finetune: Command,
        stopped_at: Copy,
        tmp_path: Path,
    ) -> None:
        stopped_at(tmp_path / "run", 10**9)
        code, _, _ = finetune("evaluate", "run", "--output", "fresh", "--device", "cpu")
        assert code == 0
        assert file_digests(tmp_path / "fresh") == file_digests(tmp_path / "run" / "predictions")
        checkpoint = tmp_path / "run" / "checkpoints" / "A-seed0.safetensors"
        checkpoint.write_bytes((tmp_path / "run" / "checkpoints" / "C-seed0.safetensors").read_bytes())
        assert "SHA-256" in refused(finetune("evaluate", "run", "--output", "again", "--device", "cpu"))
        (tmp_path / "run" / "results.json").unlink()
        assert "results.json" in refused(finetune("evaluate", "run", "--output", "again"))


class TestProcess:
    """What only a process of its own shows. No torch is loaded, so these are quick."""

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "finetune", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def test_version(self) -> None:
        ended = self.run("--version")
        assert ended.returncode == 0
        assert __version__ in ended.stdout

    def test_refused(self) -> None:
        ended = self.run("train", "--epochs", "0")
        assert (ended.returncode, ended.stdout) == (2, "")
        assert ended.stderr == "Error: epochs must be a whole number of at least 1, but 0 was given.\n"

    def test_torch_is_not_loaded_for_a_wrong_option(self) -> None:
        program = (
            "import sys\nfrom finetune import cli\nsys.argv = ['finetune', 'train', '--epochs', '0']\n"
            "try:\n    cli.main()\nexcept SystemExit:\n    print('torch' in sys.modules)\n"
        )
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert ended.stdout == "False\n"
