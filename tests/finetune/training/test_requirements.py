"""A recipe that cannot be trained is refused before any image is decoded."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from finetune.config.experiment import STANDARD_VARIANTS, Recipe
from finetune.errors import OutOfMemory
from finetune.network.resnet18 import build
from finetune.training import requirements
from finetune.training.requirements import evaluation_batch_size, require_memory, saved_bytes
from tests.builders.runs import Command

A, _, C = STANDARD_VARIANTS
CPU = torch.device("cpu")
RECIPE = Recipe(batch_size=8, image_size=64)


@pytest.mark.usefixtures("narrow")
class TestSavedBytes:
    @pytest.mark.parametrize("groups", ["all", ("layer4", "fc"), ("fc",)])
    def test_is_what_autograd_saves_in_a_real_step(self, groups: str | tuple[str, ...]) -> None:
        variant = dataclasses.replace(A, train=groups)
        network, storages = build(variant, 2, 0, None), {}
        parameters = {p.data_ptr() for p in network.parameters()}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.data_ptr() not in parameters:
                storages[tensor.untyped_storage().data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            logits = network(torch.zeros(2, 3, 64, 64))
        assert logits.requires_grad
        assert saved_bytes(variant, 64) == pytest.approx(sum(storages.values()) / 2, rel=0.05)

    def test_grows_with_the_pixels_and_the_trained_layers(self) -> None:
        assert saved_bytes(A, 128) == pytest.approx(4 * saved_bytes(A, 64), rel=0.05)
        assert saved_bytes(C, 64) < saved_bytes(A, 64) / 4


class TestRequireMemory:
    @pytest.fixture(autouse=True)
    def _free(self, narrow: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG002 - for its effect
        self.needed = saved_bytes(A, 64) * 8
        monkeypatch.setattr(requirements, "free_memory_bytes", lambda _: self.free)

    def test_a_batch_that_fits(self) -> None:
        self.free = self.needed
        require_memory(A, RECIPE, "fp32", CPU)

    def test_a_batch_that_does_not_fit(self) -> None:
        self.free = self.needed - 1
        with pytest.raises(
            OutOfMemory,
            match=r"^Training A on batches of 8 images of 64 pixels needs more than .* MB, but .* MB of "
            r"memory is free; use --batch-size 7 or less, or a smaller --image-size\.$",
        ):
            require_memory(A, RECIPE, "fp32", CPU)
        require_memory(C, RECIPE, "fp32", CPU)
        require_memory(A, RECIPE, "bf16", CPU)

    def test_an_image_that_does_not_fit(self) -> None:
        self.free = self.needed // 8 - 1
        with pytest.raises(OutOfMemory, match=r"is free; use a smaller --image-size\.$"):
            require_memory(A, RECIPE, "fp32", CPU)


@pytest.mark.parametrize(
    ("device", "batch_size", "at_a_time"),
    [
        ("cpu", 8, 8),
        ("cpu", 512, 512),
        ("cuda", 8, 32),
        ("cuda", 64, 256),
        ("cuda", 100, 256),
        ("cuda", 512, 512),
    ],
)
def test_a_gpu_evaluates_larger_batches(device: str, batch_size: int, at_a_time: int) -> None:
    assert evaluation_batch_size(Recipe(batch_size=batch_size), torch.device(device)) == at_a_time


def test_the_command_refuses_before_it_looks_at_the_images(finetune: Command, narrow_weights: Path) -> None:
    code, out, err = finetune(
        "train", "--dataset", "imagefolder:nowhere", "--weights", str(narrow_weights), "--image-size", "60000"
    )
    assert code == 2
    assert err.startswith("Error: Training A on batches of 64 images of 60000 pixels needs more than")
    assert "Splits" not in out
