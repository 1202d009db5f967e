"""Evaluation: sums that a float64 reference confirms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.functional import normalize

from finetune.network.network import Network
from finetune.network.resnet18 import resnet18
from finetune.training.evaluate import MEAN, STD, normalized
from finetune.training.record import Metrics, Predictions
from tests.builders.images import stored
from tests.builders.networks import recompute

CPU = torch.device("cpu")


@pytest.fixture
def network(narrow: None) -> Network:  # noqa: ARG001 - wanted for its effect
    torch.manual_seed(1)
    made = resnet18(5)
    for module in made.modules():  # statistics as after some training
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    return made


def images(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 32, 32, 3), dtype=torch.uint8, generator=generator)
    return pixels, torch.randint(0, 5, (n,), generator=generator)


def test_normalized_as_torchvision_does() -> None:
    pixels, _ = images(3)
    found = normalized(pixels, CPU)
    expected = normalize(pixels.permute(0, 3, 1, 2).float() / 255, list(MEAN), list(STD))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_equals_a_float64_reference(network: Network) -> None:
    pixels, labels = images(23)
    found = recompute(network, stored(pixels), labels, 7)
    double = resnet18(5).double()
    double.load_state_dict({n: t.double() for n, t in network.state_dict().items()})
    double.eval()
    with torch.no_grad():
        logits = double(normalized(pixels, CPU).double())
    reference = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    np.testing.assert_allclose(found.nll, reference.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.predicted, logits.argmax(1).numpy())
    metrics = found.metrics(labels.numpy())
    assert metrics.loss_sum == pytest.approx(reference.sum().item(), rel=1e-5)
    assert metrics.n_correct == int((logits.argmax(1) == labels).sum())
    assert metrics.n_samples == 23


@pytest.mark.parametrize("batch_size", [1, 2, 22, 23, 100])
def test_batch_size_does_not_matter_beyond_rounding(network: Network, batch_size: int) -> None:
    pixels, labels = images(23)
    whole, parts = (recompute(network, stored(pixels), labels, n) for n in (23, batch_size))
    np.testing.assert_allclose(whole.nll, parts.nll, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(whole.predicted, parts.predicted)


def test_leaves_eval_mode_and_no_trace(network: Network) -> None:
    pixels, labels = images(4)
    before = {n: t.clone() for n, t in network.state_dict().items()}
    network.train()
    recompute(network, stored(pixels), labels, 2)
    assert not network.training
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


def test_calls_back_after_each_batch(network: Network) -> None:
    pixels, labels = images(7)
    told: list[int] = []
    recompute(network, stored(pixels), labels, 3, batch_ended=lambda: told.append(1))
    assert len(told) == 3


def test_metrics_are_summed_in_float64() -> None:
    n = 1_000_000
    nll = np.full(n, 0.1, dtype=np.float32)
    found = Predictions(np.zeros(n, dtype=np.int64), nll, nll).metrics(np.zeros(n, dtype=np.int64))
    assert found.loss_sum == pytest.approx(float(np.float32(0.1)) * n, rel=1e-12)
    assert found.n_correct == n


def test_ratios() -> None:
    metrics = Metrics(loss_sum=6.0, n_correct=1, n_samples=4)
    assert (metrics.accuracy, metrics.loss) == (0.25, 1.5)
