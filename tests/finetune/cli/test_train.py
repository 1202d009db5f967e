"""`finetune train`."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torchvision.datasets import Flowers102

from finetune.cli import train as train_command
from finetune.network import weights
from finetune.run import fit
from finetune.system import download as network
from finetune.system.console import Reporter
from tests.builders.config import tiny_config
from tests.builders.images import image_tree
from tests.builders.runs import Command
from tests.builders.server import Server
from tests.compare_runs import file_digests, without_times

DOCS = Path(__file__).parents[3] / "docs" / "terminal.md"
Copy = Callable[[Path, int], dict[str, Any] | None]
Refused = Callable[..., str]


class TestTrain:
    def test_done(self, finetune: Command, tiny: list[str], narrow_weights: Path, tmp_path: Path) -> None:
        code, out, err = finetune("train", *tiny, "--weights", str(narrow_weights), "--out", "run")
        assert (code, err) == (0, "")
        record = json.loads((tmp_path / "run" / "results.json").read_text())
        assert [r["variant"] for r in record["runs"]] == ["A", "B", "C"]
        assert record["config"]["recipe"]["image_size"] == 16
        assert "trained parameters" in out
        assert "\x1b" not in out  # plain lines where there is no terminal

    def test_a_run_has_a_folder_of_its_own_in_runs(
        self, finetune: Command, tiny: list[str], narrow_weights: Path, tmp_path: Path
    ) -> None:
        code, _, _ = finetune("train", *tiny, "--weights", str(narrow_weights), "--variants", "c")
        assert code == 0
        (out,) = (tmp_path / "runs").iterdir()
        assert re.fullmatch(r"digits-\d{8}-\d{6}", out.name)

    def test_jobs_of_the_same_second_have_a_folder_each(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(
            train_command, "datetime", SimpleNamespace(now=lambda: datetime(2026, 5, 4, 3, 2, 1))
        )
        for name in ("digits-20260504-030201", "digits-20260504-030201-2", "digits-20260504-030201-3"):
            folder = train_command.default_folder(tiny_config())
            assert folder == Path("runs") / name
            folder.mkdir(parents=True)

    def test_a_variant_that_failed(
        self, finetune: Command, tiny: list[str], narrow_weights: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "own.toml").write_text("[variants.A]\nlr = 1e12\n")
        options = [o for o in tiny if o not in ("--lr", "0.02")]
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
        tiny: list[str],
        narrow_weights: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        number: int,
        expected: int,
    ) -> None:
        options = ("train", *tiny, "--variants", "a,c", "--weights", str(narrow_weights), "--out")
        assert finetune(*options, "whole")[0] == 0
        real, asked = fit.epoch_line, []

        def interrupting(*arguments: Any) -> str:
            if not asked:
                asked.append(number)
                os.kill(os.getpid(), number)
            return real(*arguments)

        monkeypatch.setattr(fit, "epoch_line", interrupting)
        said: list[Reporter] = []
        monkeypatch.setattr(Reporter, "stopping", lambda self: said.append(self))
        code, _, err = finetune(*options, "runs/of mine")
        assert code == expected
        assert len(said) == 1
        assert err == "Interrupted. Resume with: finetune train --resume 'runs/of mine'\n"
        code, out, _ = finetune("train", "--resume")  # the newest
        assert code == 0
        assert "resumed after 3 steps" in out
        folders = tmp_path / "whole", tmp_path / "runs" / "of mine"
        one, two = (json.loads((folder / "results.json").read_text()) for folder in folders)
        assert without_times(one) == without_times(two)
        assert file_digests(folders[0]) == file_digests(folders[1])


class TestOutput:
    """What `--quiet` and `--log-format json` leave of it."""

    def test_quiet(self, finetune: Command, tiny: list[str], narrow_weights: Path) -> None:
        code, out, err = finetune("train", *tiny, "--weights", str(narrow_weights), "--out", "run", "--quiet")
        assert (code, err) == (0, "")
        assert not re.search(r"\b[12]/2\b", out)  # no line of an epoch
        assert "Scope: " in out
        assert "Results:" not in out

    def test_json(self, finetune: Command, tiny: list[str], narrow_weights: Path) -> None:
        options = ["--weights", str(narrow_weights), "--out", "run", "--log-format", "json"]
        code, out, err = finetune("train", *tiny, *options)
        assert (code, err) == (0, "")
        events = [json.loads(line) for line in out.splitlines()]
        names = [event["event"] for event in events]
        assert [name for name in names if name != "warning"] == ["start", *["epoch"] * 6, "verdict", "end"]
        assert [(e["variant"], e["epoch"]) for e in events if e["event"] == "epoch"] == [
            (variant, number) for variant in "ABC" for number in (1, 2)
        ]
        assert events[-1] == {
            **events[-1],
            "status": "completed",
            "exit_code": 0,
            "run": "run",
            "message": None,
        }

    def test_json_has_the_fields_that_the_docs_list(
        self, finetune: Command, tiny: list[str], narrow_weights: Path
    ) -> None:
        table = re.findall(r"^\| `(\w+)` \| (.*?) \|$", DOCS.read_text("utf-8"), re.M)
        listed = {name: set(re.findall(r"`(\w+)`", fields)) for name, fields in table}
        assert set(listed) == {"start", "epoch", "trial", "warning", "verdict", "end"}
        options = ["--weights", str(narrow_weights), "--out", "run", "--log-format", "json"]
        tiny = [o for o in tiny if o not in ("--lr", "0.02")]
        code, out, err = finetune("train", *tiny, *options, "--variants", "c", "--tune", "full")
        assert (code, err) == (0, "")
        seen: dict[str, set[str]] = {"warning": {"message"}}
        for event in map(json.loads, out.splitlines()):
            seen[event["event"]] = event.keys() - {"event", "time", "rank"}
        assert seen == listed

    def test_json_of_a_job_that_is_refused(
        self, finetune: Command, tiny: list[str], narrow_weights: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "x").touch()
        options = ["--weights", str(narrow_weights), "--out", "run", "--log-format", "json"]
        code, out, err = finetune("train", *tiny, *options)
        (end,) = map(json.loads, out.splitlines())
        assert (code, end["event"], end["status"], end["exit_code"]) == (2, "end", "refused", 2)
        assert err == f"Error: {end['message']}\n"
        assert end["run"] == "run"

    def test_json_of_a_refused_job_without_a_folder(self, finetune: Command, tiny: list[str]) -> None:
        _, out, _ = finetune("train", *tiny, "--weights", "none.pth", "--out", "run", "--log-format", "json")
        (end,) = map(json.loads, out.splitlines())
        assert (end["status"], end["run"]) == ("refused", None)

    def test_a_failed_variant_is_warned_of(
        self, finetune: Command, tiny: list[str], narrow_weights: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "own.toml").write_text("[variants.A]\nlr = 1e12\n")
        options = [o for o in tiny if o not in ("--lr", "0.02")]
        options = ["--preset", "own.toml", *options, "--weights", str(narrow_weights), "--variants", "a,c"]
        code, out, err = finetune("train", *options, "--out", "one", "--quiet")
        assert code == 1
        assert err.startswith("A-seed0 failed. In epoch 1 the loss was no longer finite")
        code, out, _ = finetune("train", *options, "--out", "two", "--log-format", "json")
        events = [json.loads(line) for line in out.splitlines()]
        assert "A-seed0 failed." in next(e for e in events if e["event"] == "warning")["message"]
        assert (events[-1]["status"], events[-1]["exit_code"]) == ("failed", code)

    def test_one_of_the_two(self, refused: Refused) -> None:
        said = refused("train", "--quiet", "--log-format", "json")
        assert said.endswith("--log-format json was given too; leave one of them out.")


class TestResume:
    """`--resume` without a run."""

    @pytest.fixture
    def runs(self, tmp_path: Path) -> Callable[[str, bool], Path]:
        """Makes a run folder that has ended or not; each one is newer than those before."""
        made = []

        def make(name: str, is_finished: bool) -> Path:
            folder = tmp_path / "runs" / name
            folder.mkdir(parents=True)
            (folder / "config.toml").write_text(f"key-of-{name} = 1")
            os.utime(folder / "config.toml", (len(made), len(made)))
            if is_finished:
                (folder / "results.json").touch()
            else:
                (folder / "state").mkdir()
            made.append(folder)
            return folder

        return make

    def test_takes_the_newest_unfinished_one(
        self, refused: Refused, runs: Callable[[str, bool], Path]
    ) -> None:
        for name, is_finished in (("z", False), ("a", False), ("b", True)):
            runs(name, is_finished)
        assert "unknown key 'key-of-a'" in refused("train", "--resume")

    def test_all_are_finished(self, refused: Refused, runs: Callable[[str, bool], Path]) -> None:
        runs("b", True)
        runs("a", True)
        assert refused("train", "--resume") == (
            "--resume continues an interrupted run, but every run in runs/ is finished, the newest being "
            "runs/a; name one that is not: --resume RUN."
        )

    def test_a_run_with_some_results_is_unfinished(
        self, refused: Refused, runs: Callable[[str, bool], Path]
    ) -> None:
        (runs("a", False) / "results.json").touch()
        assert "unknown key 'key-of-a'" in refused("train", "--resume")

    @pytest.mark.usefixtures("narrow")
    def test_the_environment_does_not_keep_a_run_from_being_resumed(
        self, finetune: Command, stopped_at: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stopped_at(tmp_path / "run", 12)
        monkeypatch.setenv("FINETUNE_TRAIN_EPOCHS", "9")
        assert finetune("train", "--resume", "run")[0] == 0
        assert json.loads((tmp_path / "run" / "results.json").read_text())["config"]["recipe"]["epochs"] == 2


class TestRefused:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--epochs", "0"], "epochs must be a whole number of at least 1, but 0 was given."),
            (["--epochs", "x"], "is not a valid integer"),
            (["--lr", "nan"], "lr must be a number above 0"),
            (["--threads", "0"], "threads must be a whole number of at least 1, but 0 was given."),
            (["--threads", "5000"], "threads must be a whole number from 1 to 1024, but 5000 was given."),
            (["--workers", "0"], "workers must be a whole number of at least 1"),
            (["--seed", "-1"], "seed must be a whole number"),
            (["--seed", "99999999999999999999"], "seed must be a whole number"),
            (
                ["--split", "50-50"],
                "split must be official, or percentages for training, validation",
            ),
            (["--device", "tpu"], "device must be auto, cpu, cuda, cuda:N or mps, but 'tpu' was given"),
            (["--device", "mps", "--dataset", "digits"], "--device mps needs an Apple GPU"),
            (["--lr", "z=0.1"], "lr must be for one of the variants A, B, C, but 'z' was given."),
            (["--lr", "a=fast"], "lr must be a number, or rates by variant such as a=0.03,b=0.01, but"),
            (["--lr", "a=-1"], "lr of variant A must be a number above 0, but -1.0 was given."),
            (["--lr", "a=0.1,b=0.2", "--variants", "a,c"], "one of the variants A, C, but 'b' was given."),
            (["--variants", "a,z"], "variant must be one of A, B, C, but 'z' was given."),
            (["--variants", ""], "variant must be one of A, B, C"),
            (["--preset", "nope"], "preset must be "),
            (
                ["--preset", "nope.toml"],
                "The preset file nope.toml cannot be read (No such file or directory); check",
            ),
            (
                ["--dataset", "mnist"],
                "dataset must be flowers102, digits or an existing folder of images, but 'mnist'",
            ),
            (
                ["--dataset", "imagefolder:nope"],
                "must be in an existing folder, but nope is none; check the path",
            ),
            (["--dataset", "digits", "--split", "official"], "--split official requires a data set"),
            (["--dataset", "digits", "--weights", "nope.pth"], "nope.pth cannot be read"),
            (["--dataset", "digits", "--weights", "nope"], "--weights must be imagenet, bundled, a"),
            (["--nope"], "No such option"),
            (["--out"], "requires an argument"),
        ],
    )
    def test_options(self, refused: Refused, tmp_path: Path, options: list[str], message: str) -> None:
        assert message in refused("train", *options)
        assert not list(tmp_path.glob("**/*.toml"))

    def test_a_folder_with_content(self, refused: Refused, tiny: list[str], tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "x").touch()
        assert "has content" in refused("train", *tiny, "--out", "run")

    def test_a_file_as_folder(self, refused: Refused, tiny: list[str], tmp_path: Path) -> None:
        (tmp_path / "run").touch()
        assert "run" in refused("train", *tiny, "--out", "run")

    @pytest.mark.parametrize(
        "option", [["--seeds", "3"], ["--out", "x"], ["--lr", "1"], ["--preset", "smoke"]]
    )
    def test_resume_takes_no_other_option(self, refused: Refused, option: list[str]) -> None:
        said = refused("train", "--resume", "run", *option)
        assert f"no other option can be given, but {option[0]} was" in said

    @pytest.mark.parametrize("option", [["--quiet"], ["--log-format", "json"]])
    def test_but_what_it_says_may_differ(self, refused: Refused, option: list[str]) -> None:
        assert "--resume needs a run folder" in refused("train", "--resume", "run", *option)

    def test_more_epochs_are_another_run(self, refused: Refused) -> None:
        """The rates of a schedule fall to zero, so more epochs at its end would train nothing."""
        said = refused("train", "--resume", "runs/a", "--epochs", "20")
        assert said.endswith("with: finetune train --preset runs/a/config.toml --epochs 20.")
        assert "--preset RUN/config.toml" in refused("train", "--epochs", "20", "--resume")

    def test_parallel_needs_a_folder(self, refused: Refused) -> None:
        assert "but --out was not given; add --out FOLDER" in refused("train", "--parallel", "runs")

    @pytest.mark.usefixtures("narrow")
    def test_a_run_of_two_processes_is_not_resumed_by_one(
        self, refused: Refused, stopped_at: Copy, tmp_path: Path
    ) -> None:
        stopped_at(tmp_path / "run", 12)
        path = tmp_path / "run" / "config.toml"
        path.write_text(path.read_text().replace("processes = 1", "processes = 2"))
        said = refused("train", "--resume", "run")
        assert "torchrun --nproc-per-node 2 -m finetune train --parallel data --resume run." in said

    def test_a_number_of_threads_that_openmp_could_not_use(
        self, refused: Refused, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OMP_NUM_THREADS", "many")
        said = refused("train")
        assert said == "OMP_NUM_THREADS must be a whole number from 1 to 1024, but many was given."

    def test_resume_without_a_run(self, refused: Refused, tmp_path: Path) -> None:
        assert "there is none in runs/" in refused("train", "--resume")
        assert "check the path" in refused("train", "--resume", "none")
        (tmp_path / "empty").mkdir()
        assert "config.toml" in refused("train", "--resume", "empty")

    @pytest.mark.usefixtures("narrow")
    def test_a_tampered_config(self, refused: Refused, stopped_at: Copy, tmp_path: Path) -> None:
        stopped_at(tmp_path / "run", 12)
        path = tmp_path / "run" / "config.toml"
        path.write_text(path.read_text().replace("epochs = 2", "epochs = 3"))
        assert "config.recipe.epochs was 2 and is 3" in refused("train", "--resume", "run")

    def test_bad_images(self, refused: Refused, tiny: list[str], tmp_path: Path) -> None:
        image_tree(tmp_path / "pets", {"cat": 5, "dog": 5})
        (tmp_path / "pets" / "cat" / "bad.jpg").write_bytes(b"")
        said = refused("train", *tiny[2:], "--dataset", "imagefolder:pets", "--weights", "bundled")
        assert "cat/bad.jpg (not an image)" in said
        assert not (tmp_path / "runs").exists()

    def test_weights_are_read_before_images_are_decoded(
        self, refused: Refused, tiny: list[str], tmp_path: Path
    ) -> None:
        image_tree(tmp_path / "pets", {"cat": 5, "dog": 5})
        (tmp_path / "pets" / "cat" / "bad.jpg").write_bytes(b"")
        said = refused("train", *tiny[2:], "--dataset", "imagefolder:pets", "--weights", "no.pth")
        assert "no.pth" in said

    @pytest.mark.parametrize("fault", ["404", "500", "html"])
    def test_no_network(
        self,
        refused: Refused,
        tiny: list[str],
        server: Server,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        fault: str,
    ) -> None:
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
        monkeypatch.setattr(network, "STALL_SECONDS", 1.0)
        monkeypatch.setattr(weights, "IMAGENET_URL", f"{server.url}/{fault}/resnet18-f37072fd.pth")
        monkeypatch.setattr(Flowers102, "_download_url_prefix", f"{server.url}/{fault}/")
        assert "--weights bundled" in refused("train", *tiny, "--weights", "imagenet")
        assert "--dataset digits" in refused("train")
