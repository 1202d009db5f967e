"""The network: ResNet-18, and what frozen means."""

from __future__ import annotations

import pytest
import torch
import torchvision

from finetune.config.experiment import GROUPS, STANDARD_VARIANTS, Recipe, Variant
from finetune.network.network import Network, fingerprint
from finetune.network.resnet18 import build, resnet18, state_shapes
from finetune.training.optimizer import make_optimizer

A, B, C = STANDARD_VARIANTS
MIDDLE = Variant(name="M", init="random", train=("conv1", "fc"))


def trained(variant: Variant, n_classes: int = 102) -> int:
    with torch.device("meta"):
        return sum(p.numel() for _, p in resnet18(n_classes, variant.groups).trainable())


class TestCounts:
    def test_of_102_classes(self) -> None:
        assert [trained(v) for v in (A, B, C)] == [11_228_838, 11_228_838, 8_446_054]

    def test_of_10_classes(self) -> None:
        assert [trained(v, 10) for v in (A, C)] == [11_181_642, 8_398_858]

    def test_of_each_group(self) -> None:
        counts = [trained(Variant(name="X", init="random", train=g), 1000) for g in GROUPS]
        assert sum(counts) == 11_689_512  # torchvision's ResNet-18
        assert counts[0] == 9408
        assert counts[-1] == 513_000


class TestNetwork:
    def test_same_function_as_torchvisions(self) -> None:
        torch.manual_seed(0)
        reference = torchvision.models.resnet18(num_classes=5).eval()
        network = resnet18(5, ("layer4", "fc")).eval()
        network.load_state_dict(reference.state_dict())
        images = torch.randn(2, 3, 40, 40)
        with torch.inference_mode():
            torch.testing.assert_close(network(images), reference(images), rtol=0, atol=1e-5)  # fused
            network = resnet18(5).eval()  # without a frozen prefix nothing is
            network.load_state_dict(reference.state_dict())
            torch.testing.assert_close(network(images), reference(images), rtol=0, atol=0)

    def test_shapes(self) -> None:
        shapes = state_shapes(7)
        assert shapes == {
            n: tuple(t.shape) for n, t in torchvision.models.resnet18(num_classes=7).state_dict().items()
        }


@pytest.mark.usefixtures("narrow")
class TestFrozen:
    def network(self, *groups: str) -> Network:
        torch.manual_seed(0)
        return resnet18(10, groups)

    def test_eval_mode_survives_train(self) -> None:
        network = self.network("layer4", "fc")
        for _ in range(2):
            network.train()
            assert network.training
            assert network.layer4.training
            for group in GROUPS[:-2]:
                assert not any(m.training for m in network.get_submodule(group).modules()), group
        network.eval()
        assert not any(m.training for m in network.modules())

    def test_parameters_take_no_gradient(self) -> None:
        network = self.network("layer4", "fc")
        names = {n.partition(".")[0] for n, _ in network.trainable()}
        assert names == {"layer4", "fc"}
        assert all(p.requires_grad == (n.partition(".")[0] in names) for n, p in network.named_parameters())

    def test_no_graph_in_the_frozen_prefix(self) -> None:
        network = self.network("layer4", "fc")
        images = torch.randn(2, 3, 32, 32, requires_grad=True)
        features = network.features(images)
        assert features.shape == (2, 16, 2, 2)
        assert features.grad_fn is None
        assert not features.requires_grad
        assert network.suffix(features).requires_grad
        torch.testing.assert_close(network(images), network.suffix(features))

    def test_no_prefix_when_the_first_layer_trains(self) -> None:
        images = torch.randn(2, 3, 32, 32)
        assert self.network("conv1", "fc").features(images) is images

    def test_a_frozen_middle_passes_gradients_but_does_not_change(self) -> None:
        network = self.network("conv1", "fc").train()
        before = network.frozen_sha256()
        conv1, layer2 = network.conv1.weight.clone(), network.layer2[0].bn1.running_mean.clone()
        optimizer = make_optimizer(network, Recipe(), 0.1)
        torch.nn.functional.cross_entropy(network(torch.randn(4, 3, 32, 32)), torch.arange(4)).backward()
        assert network.conv1.weight.grad is not None
        assert network.conv1.weight.grad.abs().sum() > 0
        assert network.layer2[0].conv1.weight.grad is None
        optimizer.step()
        assert not torch.equal(network.conv1.weight, conv1)
        assert torch.equal(network.layer2[0].bn1.running_mean, layer2)
        assert network.frozen_sha256() == before

    def test_the_optimizer_gets_only_what_trains(self) -> None:
        network = self.network("layer4", "fc")
        groups = make_optimizer(network, Recipe(weight_decay=0.1), 0.5).param_groups
        given = {id(p) for g in groups for p in g["params"]}
        assert given == {id(p) for n, p in network.named_parameters() if n.startswith(("layer4", "fc"))}
        decay, none = groups
        assert (decay["weight_decay"], none["weight_decay"]) == (0.1, 0.0)
        assert all(p.ndim > 1 for p in decay["params"])
        assert all(p.ndim == 1 for p in none["params"])
        assert all(g["nesterov"] and g["momentum"] == 0.9 for g in groups)

    def test_no_momentum(self) -> None:
        assert not make_optimizer(self.network("fc"), Recipe(momentum=0), 0.5).param_groups[0]["nesterov"]

    @pytest.mark.parametrize(
        ("name", "counts"),
        [
            ("conv1.weight", True),
            ("layer3.1.bn2.weight", True),
            ("layer1.0.bn1.running_var", True),
            ("bn1.num_batches_tracked", True),
            ("layer4.0.conv1.weight", False),
            ("fc.bias", False),
        ],
    )
    def test_its_digest_covers_parameters_and_statistics(self, name: str, counts: bool) -> None:
        network = self.network("layer4", "fc")
        before = network.frozen_sha256()
        with torch.no_grad():
            network.state_dict()[name].view(-1)[0] += 1
        assert (network.frozen_sha256() != before) == counts


@pytest.mark.usefixtures("narrow")
class TestBuild:
    def test_the_seed_fixes_the_start(self) -> None:
        states = [build(A, 10, seed, None).state_dict() for seed in (0, 0, 1)]
        prints = [fingerprint(s) for s in states]
        assert prints[0] == prints[1] != prints[2]

    def test_the_global_generator_is_left_alone(self) -> None:
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        build(A, 10, 0, None)
        assert torch.equal(torch.rand(3), expected)

    def test_the_same_head_for_all_variants_of_a_seed(self) -> None:
        pretrained = {n: t for n, t in build(A, 10, 99, None).state_dict().items() if not n.startswith("fc")}
        a, b, c = (build(v, 10, 3, pretrained) for v in (A, B, C))
        assert torch.equal(a.fc.weight, b.fc.weight)
        assert fingerprint(b.state_dict()) == fingerprint(c.state_dict())
        assert torch.equal(b.conv1.weight, pretrained["conv1.weight"])
        assert not torch.equal(a.conv1.weight, pretrained["conv1.weight"])

    def test_pretrained_without_weights_is_a_bug(self) -> None:
        with pytest.raises(ValueError, match="starts from pretrained weights, but none were given"):
            build(B, 10, 0, None)


def test_fingerprint_tells_names_types_shapes_and_values_apart() -> None:
    states = [
        {"a": torch.zeros(4)},
        {"b": torch.zeros(4)},
        {"a": torch.zeros(2, 2)},
        {"a": torch.zeros(4, dtype=torch.int32)},
        {"a": torch.tensor([0.0, 0.0, 0.0, -0.0])},
    ]
    assert len({fingerprint(s) for s in states}) == 5
    two = {"a": torch.ones(2), "b": torch.zeros(2)}
    assert fingerprint(two) == fingerprint(dict(reversed(two.items())))
    columns = torch.arange(6.0).view(2, 3)
    assert fingerprint({"a": columns.t()}) == fingerprint({"a": columns.t().contiguous()})
