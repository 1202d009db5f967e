"""`finetune train`."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torchvision.datasets import Flowers102

from finetune.network import weights
from finetune.run import fit
from finetune.system import download as network
from tests.builders.images import image_tree
from tests.builders.runs import Command
from tests.builders.server import Server
from tests.compare_runs import file_digests, without_times

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
        code, _, err = finetune(*options, "runs/it")
        assert code == expected
        assert err == "Interrupted. Resume with: finetune train --resume runs/it\n"
        code, out, _ = finetune("train", "--resume")  # the newest
        assert code == 0
        assert "resumed after 3 steps" in out
        one, two = (json.loads((tmp_path / d / "results.json").read_text()) for d in ("whole", "runs/it"))
        assert without_times(one) == without_times(two)
        assert file_digests(tmp_path / "whole") == file_digests(tmp_path / "runs" / "it")


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
            (["--device", "tpu"], "device must be auto, cpu, cuda, cuda:N or mps, but 'tpu' was given."),
            (["--device", "mps", "--dataset", "digits"], "--device mps needs an Apple GPU"),
            (["--lr", "z=0.1"], "lr must be of one of the variants A, B, C, but 'z' was given."),
            (["--lr", "a=fast"], "lr must be a number, or rates by variant such as a=0.03,b=0.01, but"),
            (["--lr", "a=-1"], "lr of variant A must be a number above 0, but -1.0 was given."),
            (["--lr", "a=0.1,b=0.2", "--variants", "a,c"], "one of the variants A, C, but 'b' was given."),
            (["--variants", "a,z"], "variant must be one of A, B, C, but 'z' was given."),
            (["--variants", ""], "variant must be one of A, B, C"),
            (["--preset", "nope"], "preset must be "),
            (["--preset", "nope.toml"], "The preset file nope.toml cannot be read"),
            (
                ["--dataset", "mnist"],
                "dataset must be flowers102, digits or an existing folder of images, but 'mnist'",
            ),
            (["--dataset", "imagefolder:nope"], "Folder not found: nope; imagefolder:PATH must name"),
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
