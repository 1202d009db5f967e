"""What weights files say about themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from finetune.run.metadata import model_metadata, with_metadata

METADATA = model_metadata(
    ("ant", 'b"ée\n'), 224, schema_version="2.0", variant="B", seed=3, epoch=7
)  # a hostile class name


def test_the_library_reads_it_and_the_tensors_stay(tmp_path: Path) -> None:
    tensors = {"b": torch.rand(3), "a": torch.rand(2, 2).half(), "n": torch.tensor(5)}
    content = with_metadata(safetensors.torch.save(tensors, {"old": "gone"}), METADATA)
    (tmp_path / "x.safetensors").write_bytes(content)
    with safetensors.safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == METADATA
        for name, tensor in tensors.items():
            torch.testing.assert_close(file.get_tensor(name), tensor, rtol=0, atol=0)


def test_equal_input_gives_equal_bytes() -> None:
    content = safetensors.torch.save({"a": torch.ones(2)})
    backwards = dict(reversed(METADATA.items()))
    assert with_metadata(content, METADATA) == with_metadata(content, backwards)
    assert with_metadata(with_metadata(content, METADATA), METADATA) == with_metadata(content, METADATA)


@pytest.mark.usefixtures("narrow")
def test_checkpoints_say_how_to_use_them(photos_run: tuple[Path, Path]) -> None:
    run, _ = photos_run
    document = json.loads((run / "results.json").read_text())
    for entry in document["runs"]:
        with safetensors.safe_open(run / entry["artifacts"]["checkpoint"]["path"], "pt") as file:
            said = file.metadata()
        assert json.loads(said["classes"]) == ["cat", "dog"]
        assert (said["variant"], int(said["seed"])) == (entry["variant"], entry["seed"])
        assert int(said["epoch"]) == entry["best_epoch"]
        assert int(said["image_size"]) == 32
        assert json.loads(said["resize"])["short_side"] == 37
