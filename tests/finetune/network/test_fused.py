"""The fused forward pass computes what the plain modules compute, with the weights of now."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from finetune.config.experiment import GROUPS
from finetune.network import fused
from finetune.network import resnet18 as models
from finetune.network.fused import Fused, in_eval_mode
from finetune.network.resnet18 import STAGES, Network
from finetune.training.precision import mixed

CPU = torch.device("cpu")
ONE_DNN = pytest.mark.skipif(not fused._fusible(torch.float32), reason="PyTorch was built without oneDNN")
BF16 = pytest.mark.skipif(not fused._fusible(torch.bfloat16), reason="oneDNN has no bf16 for this processor")


def lived_in(groups: tuple[str, ...] = GROUPS) -> Network:
    """A network in eval mode whose BatchNorm layers all differ from doing nothing."""
    torch.manual_seed(0)
    network = Network(10, groups).to(memory_format=torch.channels_last)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for low, high, value in ((-0.5, 0.5, layer.running_mean), (0.5, 2, layer.running_var)):
                assert value is not None
                value.uniform_(low, high)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
    return network.eval()


def images(n: int = 3, size: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, size, size, generator=generator).to(memory_format=torch.channels_last)


def plain(network: Network, inputs: torch.Tensor, stages: tuple[str, ...] = STAGES) -> torch.Tensor:
    for stage in stages:
        inputs = network.get_submodule(stage)(inputs)
    return inputs


@ONE_DNN
class TestFused:
    @pytest.mark.parametrize("cut", range(len(STAGES) + 1))
    @torch.no_grad()
    def test_any_cut_computes_the_same(self, cut: int) -> None:
        network = lived_in()
        before, after = (in_eval_mode(network, stages) for stages in (STAGES[:cut], STAGES[cut:]))
        assert isinstance(before, Fused)
        assert isinstance(after, Fused)
        part = before(images())
        expected = plain(network, images(), STAGES[:cut])
        scale = float(expected.abs().max())
        torch.testing.assert_close(part, expected, rtol=1e-4, atol=1e-5 * scale)
        whole = plain(network, images())
        torch.testing.assert_close(after(part), whole, rtol=1e-4, atol=1e-5 * float(whole.abs().max()))

    @BF16
    @torch.no_grad()
    def test_bf16_is_as_close_to_fp32_as_the_plain_modules_are(self) -> None:
        network, exact = lived_in(), plain(lived_in(), images(16))
        with mixed("bf16", CPU):
            made, usual = in_eval_mode(network, STAGES)(images(16)), plain(network, images(16))
        assert made.dtype == usual.dtype == torch.bfloat16
        error, usual_error = ((found.float() - exact).square().mean().sqrt() for found in (made, usual))
        assert 0 < error < 1.5 * usual_error

    @torch.no_grad()
    def test_the_last_smaller_batch(self) -> None:
        made = in_eval_mode(lived_in(), STAGES)
        torch.testing.assert_close(made(images(5))[:1], made(images(5)[:1]), rtol=1e-4, atol=1e-5)

    @torch.no_grad()
    def test_the_network_itself_stays_as_it_was(self) -> None:
        network = lived_in()
        before = {name: value.clone() for name, value in network.state_dict().items()}
        in_eval_mode(network, STAGES)(images())
        after = network.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items())
        assert all(p.requires_grad for p in network.parameters())


@ONE_DNN
class TestPrefix:
    groups = ("layer4", "fc")

    def test_is_made_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made: list[int] = []

        def counted(network: Network, stages: tuple[str, ...]) -> fused.Step:
            made.append(len(stages))
            return in_eval_mode(network, stages)

        monkeypatch.setattr(models, "in_eval_mode", counted)
        network = lived_in(self.groups).train()
        for _ in range(3):
            network(images()).sum().backward()
        assert made == [STAGES.index("layer4")]

    def test_new_weights_are_seen(self) -> None:
        network, other = lived_in(self.groups), Network(10).eval()
        old = network.forward_frozen(images())
        network.load_state_dict(other.state_dict())
        new = network.forward_frozen(images())
        assert not torch.allclose(new, old, rtol=0.1)
        torch.testing.assert_close(new, plain(other, images(), STAGES[:7]), rtol=1e-4, atol=1e-4)

    @BF16
    def test_each_precision_is_seen(self) -> None:
        network = lived_in(self.groups)
        for precision, expected in (("fp32", torch.float32), ("bf16", torch.bfloat16)) * 2:
            with mixed(precision, CPU):
                assert network.forward_frozen(images()).dtype == expected


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@torch.no_grad()
def test_without_onednn_the_plain_modules_do_it(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.setattr(fused, "_fusible", lambda _: False)
    network = lived_in(("layer4", "fc"))
    with mixed(precision, CPU):
        expected = plain(network, images())
        assert torch.equal(network.trained_in_eval_mode()(network.forward_frozen(images())), expected)
