"""The fused update follows the plain one's rule, from a fresh start and from a checkpoint."""

from __future__ import annotations

import pytest
import torch

from finetune.config.experiment import STANDARD_VARIANTS, Recipe
from finetune.network.network import Network
from finetune.network.resnet18 import build
from finetune.training.optimizer import make_optimizer
from finetune.training.precision import mixed

A, _, _ = STANDARD_VARIANTS

pytestmark = pytest.mark.usefixtures("narrow")


def begun(fused: bool) -> tuple[Network, torch.optim.SGD]:
    network = build(A, 4, 0, None).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(network, Recipe(), 0.1)
    for group in optimizer.param_groups:
        group["fused"] = fused
    return network, optimizer


def take_steps(network: Network, optimizer: torch.optim.SGD, *seeds: int) -> None:
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for parameter in network.parameters():
            # As autograd lays gradients out; a fused kernel takes no other.
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.grad = torch.empty_like(parameter).copy_(drawn)
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 0.1 / seed
        optimizer.step()


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_is_chosen_where_it_was_tried(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(A, 4, 0, None)
    monkeypatch.setattr(Network, "device", torch.device(device))
    assert bool(make_optimizer(network, Recipe(), 0.1).defaults["fused"]) == (device != "mps")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_are_laid_out_as_parameters(precision: str) -> None:
    """A fused kernel goes through memory in order, whatever the strides say."""
    network, _ = begun(True)
    images = torch.randn(8, 3, 16, 16).to(memory_format=torch.channels_last)
    with mixed(precision, torch.device("cpu")):
        network(images).float().square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.stride() == parameter.stride(), name


@pytest.mark.parametrize("resumed", [False, True])
def test_the_same_rule_but_for_rounding(resumed: bool) -> None:
    (plain, by_steps), (fused, at_once) = begun(False), begun(True)
    take_steps(plain, by_steps, 1, 2, 3)
    take_steps(fused, at_once, 1, 2)
    if resumed:
        kept = {p: at_once.state[p]["momentum_buffer"].clone() for p in fused.parameters()}
        at_once = make_optimizer(fused, Recipe(), 0.1)
        for group in at_once.param_groups:
            group["fused"] = True
        for parameter, momentum in kept.items():
            at_once.state[parameter]["momentum_buffer"] = momentum
    take_steps(fused, at_once, 3)
    for a, b in zip(plain.parameters(), fused.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
