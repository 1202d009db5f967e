"""The fused forward pass computes what the plain modules compute, with the weights of now."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import nn

from finetune.config.experiment import GROUPS
from finetune.network import fused
from finetune.network import network as network_module
from finetune.network.fused import Fused, in_eval_mode
from finetune.network.network import Network
from finetune.network.resnet18 import resnet18
from finetune.training.precision import mixed

CPU = torch.device("cpu")
ONE_DNN = pytest.mark.skipif(not fused._fusible(torch.float32), reason="PyTorch was built without oneDNN")
BF16 = pytest.mark.skipif(not fused._fusible(torch.bfloat16), reason="oneDNN has no bf16 for this CPU")


def lived_in(groups: tuple[str, ...] = GROUPS) -> Network:
    """A network in eval mode whose BatchNorm layers all differ from doing nothing."""
    torch.manual_seed(0)
    network = resnet18(10, groups).to(memory_format=torch.channels_last)
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


def plain(stages: Iterable[nn.Module], inputs: torch.Tensor) -> torch.Tensor:
    for stage in stages:
        inputs = stage(inputs)
    return inputs


@ONE_DNN
class TestFused:
    @pytest.mark.parametrize("cut", range(12))
    @torch.no_grad()
    def test_any_cut_computes_the_same(self, cut: int) -> None:
        network = lived_in()
        stages = nn.Sequential(*network)
        before, after = in_eval_mode(stages[:cut]), in_eval_mode(stages[cut:])
        assert isinstance(before, Fused) == (cut > 0)  # there is nothing to fuse in no stages
        assert isinstance(after, Fused) == (cut < 11)
        part = before(images())
        expected = plain(stages[:cut], images())
        scale = float(expected.abs().max())
        torch.testing.assert_close(part, expected, rtol=1e-4, atol=1e-5 * scale)
        whole = plain(network, images())
        torch.testing.assert_close(after(part), whole, rtol=1e-4, atol=1e-5 * float(whole.abs().max()))

    @BF16
    @torch.no_grad()
    def test_bf16_is_as_close_to_fp32_as_the_plain_modules_are(self) -> None:
        network, exact = lived_in(), plain(lived_in(), images(16))
        with mixed("bf16", CPU):
            made, usual = in_eval_mode(network)(images(16)), plain(network, images(16))
        assert made.dtype == usual.dtype == torch.bfloat16
        error, usual_error = ((found.float() - exact).square().mean().sqrt() for found in (made, usual))
        assert 0 < error < 1.5 * usual_error

    @pytest.mark.parametrize("adds", [True, False])
    @torch.no_grad()
    def test_images_that_shrink_to_one_pixel(self, adds: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        if adds and not fused._adds_to_one_pixel():
            pytest.skip("this torch's oneDNN cannot")
        monkeypatch.setattr(fused, "_adds_to_one_pixel", lambda: adds)
        network, small = lived_in(), images(4, 32)
        expected = plain(network, small)
        found = in_eval_mode(nn.Sequential(*network))(small)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))

    @torch.no_grad()
    def test_the_last_smaller_batch(self) -> None:
        made = in_eval_mode(lived_in())
        torch.testing.assert_close(made(images(5))[:1], made(images(5)[:1]), rtol=1e-4, atol=1e-5)

    @torch.no_grad()
    def test_the_network_itself_stays_as_it_was(self) -> None:
        network = lived_in()
        before = {name: value.clone() for name, value in network.state_dict().items()}
        in_eval_mode(network)(images())
        after = network.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items())
        assert all(p.requires_grad for p in network.parameters())


@ONE_DNN
class TestPrefix:
    groups = ("layer4", "fc")

    def test_is_made_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made: list[int] = []

        def counted(stages: nn.Sequential) -> fused.Step:
            made.append(len(stages))
            return in_eval_mode(stages)

        monkeypatch.setattr(network_module, "in_eval_mode", counted)
        network = lived_in(self.groups).train()
        for _ in range(3):
            network(images()).sum().backward()
        assert made == [7]  # the stages before layer4

    def test_new_weights_are_seen(self) -> None:
        network, other = lived_in(self.groups), resnet18(10).eval()
        old = network.features(images())
        network.load_state_dict(other.state_dict())
        new = network.features(images())
        assert not torch.allclose(new, old, rtol=0.1)
        torch.testing.assert_close(new, plain(nn.Sequential(*other)[:7], images()), rtol=1e-4, atol=1e-4)

    @BF16
    def test_each_precision_is_seen(self) -> None:
        network = lived_in(self.groups)
        for precision, expected in (("fp32", torch.float32), ("bf16", torch.bfloat16)) * 2:
            with mixed(precision, CPU):
                assert network.features(images()).dtype == expected


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@torch.no_grad()
def test_without_onednn_the_plain_modules_are_used(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.setattr(fused, "_fusible", lambda _: False)
    network = lived_in(("layer4", "fc"))
    with mixed(precision, CPU):
        expected = plain(network, images())
        assert torch.equal(in_eval_mode(network.suffix)(network.features(images())), expected)
