"""Weights as other programs save them: in checkpoints, under prefixes, with numbered layers."""

from __future__ import annotations

import argparse
import fractions
import pathlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from finetune.errors import WeightsError
from finetune.network.resnet18 import resnet18, state_shapes
from finetune.network.weights import PICKLED, Weights, load_weights
from finetune.network.wrapped import NUMBERED

State = dict[str, torch.Tensor]


@pytest.fixture
def state(narrow: None) -> State:  # noqa: ARG001 - wanted for its effect
    torch.manual_seed(0)
    return dict(resnet18(10).state_dict())


def load(path: Path, content: Any, n_classes: int = 10) -> Weights:
    torch.save(content, path)
    return load_weights(str(path), state_shapes(n_classes))


def refused(path: Path, content: Any) -> str:
    with pytest.raises(WeightsError) as caught:
        load(path, content)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(found: Weights, state: State) -> bool:
    return found.state.keys() == state.keys() and all(torch.equal(found.state[n], state[n]) for n in state)


def with_prefix(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def lightning(state: State) -> dict[str, Any]:
    """What pytorch_lightning's Trainer saves, with a metric and a loss that have tensors of their own."""
    return {
        "epoch": 3,
        "global_step": 40,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {**with_prefix("model.", state), "f1.tp": torch.zeros(()), "loss.w": torch.ones(3)},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.1}]}],
        "hyper_parameters": {"lr": 0.1},
    }  # fmt: skip


def numbered(prefix: str, state: State) -> State:
    """The names in nn.Sequential(*children)."""
    position = {name: number for number, name in NUMBERED.items()}
    found = {}
    for name, tensor in state.items():
        layer, _, rest = name.partition(".")
        found[f"{prefix}{position[layer]}.{rest}"] = tensor
    return found


def test_layers_have_torchvisions_positions() -> None:
    with torch.device("meta"):
        layers = list(torchvision.models.resnet18().named_children())
    assert {str(i): name for i, (name, layer) in enumerate(layers) if list(layer.parameters())} == NUMBERED


@pytest.mark.parametrize("suffix", PICKLED)
@pytest.mark.parametrize(
    ("wrap", "part"),
    [
        (lambda s: s, ""),
        (lambda s: {"model": s, "optimizer": {}, "epoch": 9, "args": {"lr": 0.1}}, "under model"),
        (lambda s: {"epoch": 1, "arch": "resnet18", "state_dict": with_prefix("module.", s)},
         "under state_dict, names after module."),
        (lambda s: {"checkpoint": 1, "model": {"state_dict": s}}, "under model.state_dict"),
        (lightning, "under state_dict, names after model."),
        (lambda s: with_prefix("_orig_mod.", s), "names after _orig_mod."),
        (lambda s: with_prefix("net.", s), "names after net."),
        (lambda s: {**with_prefix("encoder.backbone.", s), "head.weight": torch.ones(1)},
         "names after encoder.backbone."),
        (lambda s: {"state_dict": numbered("feature_extractor.", s)},
         "under state_dict, names after feature_extractor."),
        (lambda s: numbered("", s), ""),
    ],
)  # fmt: skip
def test_the_network_is_found(
    tmp_path: Path, state: State, suffix: str, wrap: Callable[[State], Any], part: str
) -> None:
    found = load(tmp_path / f"last{suffix}", wrap(state))
    assert same(found, state)
    assert found.part == part
    assert found.source == f"last{suffix}"


def test_options_and_paths_beside_the_weights(tmp_path: Path, state: State) -> None:
    """torchvision's reference scripts save their arguments, and Lightning what a module was made with."""

    class OnWindows:
        def __reduce__(self) -> tuple[Any, ...]:
            return pathlib.WindowsPath, ("C:/runs",)

    options = argparse.Namespace(lr=0.1, out=Path("runs"), data=OnWindows())
    assert same(load(tmp_path / "checkpoint.pth", {"model": state, "epoch": 3, "args": options}), state)
    saved = lightning(state) | {"hyper_parameters": {"folder": tmp_path, "options": options}}
    assert same(load(tmp_path / "last.ckpt", saved), state)


def test_a_head_of_several_layers_is_dropped(tmp_path: Path, state: State) -> None:
    body = {n: t for n, t in state.items() if not n.startswith("fc.")}
    head = nn.Sequential(nn.Dropout(), nn.Linear(32, 10)).state_dict()
    found = load(tmp_path / "own.pth", {**body, **with_prefix("fc.", dict(head))})
    assert same(found, body)
    assert found.dropped == ("fc.1.weight", "fc.1.bias")


class TestWhatIsNotUnderstood:
    def test_names_the_keys_of_a_checkpoint_without_weights(self, tmp_path: Path) -> None:
        said = refused(tmp_path / "x.ckpt", {"epoch": 3, "optimizer": {"state": {}}})
        assert said.endswith("must contain a dictionary of tensors, but it contains: epoch, optimizer.")

    def test_names_the_entries_of_another_network(self, tmp_path: Path) -> None:
        vit = {f"blocks.{i}.attn.qkv.weight": torch.zeros(3) for i in range(12)}
        said = refused(tmp_path / "x.pt", {"model": vit})
        assert "missing: bn1.bias, " in said
        assert "unexpected: blocks.0.attn.qkv.weight, " in said

    def test_names_the_entries_of_a_deeper_network_without_their_prefix(
        self, tmp_path: Path, state: State
    ) -> None:
        longer = {n.replace("layer2.1.", "layer2.2."): t for n, t in state.items()}
        said = refused(tmp_path / "x.pt", with_prefix("module.", {**state, **longer}))
        assert "they are not: unexpected: layer2.2.bn1.bias, " in said

    def test_a_checkpoint_that_holds_itself(self, tmp_path: Path) -> None:
        endless: dict[str, Any] = {"epoch": 1}
        endless["model"] = endless
        assert "but it contains: epoch, model." in refused(tmp_path / "x.pt", endless)

    def test_two_networks(self, tmp_path: Path, state: State) -> None:
        both = {**with_prefix("student.", state), **with_prefix("teacher.", state)}
        said = refused(tmp_path / "x.pt", both)
        assert "must hold one network, but it holds 2, with names that begin with student., teacher.;" in said

    def test_names_the_python_object_that_is_not_loaded(self, tmp_path: Path, state: State) -> None:
        said = refused(tmp_path / "x.ckpt", {"state_dict": state, "lr": fractions.Fraction(1, 10)})
        assert (
            "x.ckpt contains more than tensors (fractions.Fraction), and loading that could run code; "
            in said
        )
        assert "torch.save(model.state_dict()" in said

    def test_a_whole_pickled_network(self, tmp_path: Path) -> None:
        said = refused(tmp_path / "x.pt", nn.Linear(2, 2))
        assert "contains more than tensors (torch.nn.modules.linear.Linear)" in said
