"""`finetune evaluate`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from finetune.config.experiment import Variant
from finetune.data.split_dataset import split_dataset
from finetune.evidence.recompute import Recomputation
from finetune.network.network import fingerprint
from finetune.network.resnet18 import build, state_shapes
from finetune.network.weights import load_weights
from finetune.run.folder import RunFolder
from grader.isolated.rerun import rerun
from grader.submission.load import Submission, load
from tests.builders.config import tiny_config
from tests.builders.images import image_tree
from tests.builders.runs import Command
from tests.compare_runs import file_digests

Copy = Callable[[Path, int], dict[str, Any] | None]


@pytest.mark.parametrize("output", ["run/predictions", "run/../run/fresh", "run"])
def test_never_replaces_what_the_run_predicted(
    refused: Callable[..., str], stopped_at: Copy, tmp_path: Path, output: str
) -> None:
    stopped_at(tmp_path / "run", 10**9)
    before = file_digests(tmp_path / "run")
    assert "--output must be outside of the run folder" in refused("evaluate", "run", "--output", output)
    assert file_digests(tmp_path / "run") == before


@pytest.mark.usefixtures("narrow")
def test_recomputes_the_predictions(
    finetune: Command, refused: Callable[..., str], stopped_at: Copy, tmp_path: Path
) -> None:
    stopped_at(tmp_path / "run", 10**9)
    assert finetune("evaluate", "run", "--output", "fresh", "--device", "cpu")[0] == 0
    recomputed = json.loads((tmp_path / "fresh" / "recomputed.json").read_text())
    (tmp_path / "fresh" / "recomputed.json").unlink()
    assert file_digests(tmp_path / "fresh") == file_digests(tmp_path / "run" / "predictions")
    document = json.loads((tmp_path / "run" / "results.json").read_text())
    assert recomputed["environment"] == document["environment"]
    for run in document["runs"]:
        found = recomputed["runs"][f"{run['variant']}-seed{run['seed']}"]
        assert found["stream_sha256"] == run["budget"]["stream_sha256"]
        again, recorded = found["calibration"], run["calibration"]
        assert again["temperature"] == pytest.approx(recorded["temperature"], rel=1e-6)
        assert again["excess"] == pytest.approx(0, abs=1e-9)
        assert again["ece_test_scaled"] == pytest.approx(recorded["ece_test_scaled"], abs=1e-6)
        if run["init"] == "random":
            assert (found["initial_sha256"], found["frozen_sha256"]) == (
                run["initial_sha256"],
                run["frozen_sha256_before"],
            )
            assert found["unchanged"] == []
        else:  # the narrow network starts from a file, which the results do not contain
            assert (found["initial_sha256"], found["why"][:35]) == (
                None,
                "The pretrained weights come from a ",
            )
    checkpoint = tmp_path / "run" / "checkpoints" / "A-seed0.safetensors"
    checkpoint.write_bytes((tmp_path / "run" / "checkpoints" / "C-seed0.safetensors").read_bytes())
    assert "SHA-256" in refused("evaluate", "run", "--output", "again", "--device", "cpu")
    (tmp_path / "run" / "results.json").unlink()
    assert "results.json" in refused("evaluate", "run", "--output", "again")


@pytest.mark.usefixtures("narrow")
def test_computes_with_as_many_threads_as_asked(
    finetune: Command, stopped_at: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    stopped_at(tmp_path / "run", 10**9)
    asked.clear()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert finetune("evaluate", "run", "--output", "one", "--device", "cpu")[0] == 0
    assert finetune("evaluate", "run", "--output", "two", "--device", "cpu", "--threads", "2")[0] == 0
    assert asked == [3, 2]


def test_zero_threads(refused: Callable[..., str]) -> None:
    said = refused("evaluate", "run", "--output", "out", "--threads", "0")
    assert said == "threads must be a whole number from 1 to 1024, but 0 was given."


class TestImageFolder:
    """The results do not say where it is; config.toml does. Only `finetune evaluate` asks it."""

    @pytest.fixture
    def run(self, experiment: Callable[..., dict[str, Any]], tmp_path: Path) -> Path:
        image_tree(tmp_path / "pets", {"a": 9, "b": 9})
        experiment(tmp_path / "run", dataset=f"imagefolder:{tmp_path / 'pets'}", epochs=1)
        return tmp_path / "run"

    def test_is_found_where_the_run_found_it(self, finetune: Command, run: Path) -> None:
        assert finetune("evaluate", "run", "--output", "fresh", "--device", "cpu")[0] == 0
        fresh = file_digests(run.parent / "fresh")
        assert fresh.pop("recomputed.json")
        assert fresh == file_digests(run / "predictions")

    @pytest.mark.parametrize(
        "edited", ['dataset = "imagefolder:/etc"', 'dataset = "digits"', "damaged", None]
    )
    def test_must_be_named_where_the_configuration_does_not(
        self, refused: Callable[..., str], run: Path, edited: str | None
    ) -> None:
        (run / "config.toml").unlink() if edited is None else (run / "config.toml").write_text(edited)
        said = refused("evaluate", "run", "--output", "fresh", "--device", "cpu")
        assert said.endswith("give it with --dataset PATH.")

    def test_the_grader_takes_no_path_from_a_submission(self, run: Path) -> None:
        assert (run / "config.toml").is_file()
        assert "give it with --dataset PATH." in rerun(load(run)).failure


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("batch_size", [8, 10**12])
def test_sizes_beyond_any_memory_are_refused(
    refused: Callable[..., str], stopped_at: Copy, tmp_path: Path, batch_size: int
) -> None:
    stopped_at(tmp_path / "run", 10**9)
    path = tmp_path / "run" / "results.json"
    document = json.loads(path.read_text())
    document["config"]["recipe"].update(image_size=60_000, batch_size=batch_size)
    path.write_text(json.dumps(document))
    said = refused("evaluate", "run", "--output", "fresh", "--device", "cpu")
    assert "GB of memory is free" in said


def test_a_start_is_recomputed_from_named_weights(tmp_path: Path) -> None:
    """With the bundled weights: the hash, and what training left as it was."""
    config = tiny_config()
    variant = Variant(name="C", init="pretrained", train=("layer4", "fc"))
    pretrained = load_weights("bundled", state_shapes(10))
    network = build(variant, 10, 0, pretrained.state)
    with torch.no_grad():
        network.get_parameter("fc.weight").add_(1)
    run = SimpleNamespace(
        variant="C", init="pretrained", seed=0, status="failed", trained_groups=variant.groups
    )
    split, folder = split_dataset(config, 1), RunFolder(tmp_path)

    def recomputed(sha256: str) -> dict[str, Any]:
        weights = {"kind": "bundled", "sha256": sha256}
        results = SimpleNamespace(variant=lambda _: None, weights=weights)
        submission = cast("Submission", SimpleNamespace(results=results, document={"runs": []}))
        return Recomputation(config, split, submission, folder, 1).of(cast("Any", run), network)

    found = recomputed(pretrained.sha256)
    assert found["initial_sha256"] == fingerprint(build(variant, 10, 0, pretrained.state).state_dict())
    assert found["frozen_sha256"] == network.frozen_sha256()
    assert found["stream_sha256"] is None
    assert len(found["unchanged"]) == 5  # layer4's convolutions; fc has changed
    found = recomputed("0" * 64)
    assert (found["initial_sha256"], found["why"]) == (None, "The bundled weights have another SHA-256 here.")
