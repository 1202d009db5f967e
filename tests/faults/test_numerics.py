"""Evaluation against a float64 reference, and against itself with other batch sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from finetune.config.experiment import STANDARD_VARIANTS, Recipe
from finetune.data.datasets import load_dataset
from finetune.data.prepare import Images
from finetune.network.network import Network
from finetune.network.resnet18 import build, resnet18, state_shapes
from finetune.network.weights import load_weights
from finetune.training.evaluate import MEAN, STD
from finetune.training.features import FrozenPrefix
from finetune.training.record import Predictions
from finetune.training.trainer import Trainer
from tests.builders.images import decode_evaluation, decode_training, stored
from tests.builders.networks import recompute

N_IMAGES, SIZE = 60, 32

REFERENCE_TOLERANCE = 1e-4
"""Most that an image's loss may differ from float64's, nats."""

BATCH_TOLERANCE = 1e-5
"""Most that an image's loss may differ between two batch sizes, nats."""


@pytest.fixture(scope="module")
def network() -> Network:
    weights = load_weights("bundled", state_shapes(10))
    return build(STANDARD_VARIANTS[1], 10, 0, weights.state).eval()


@pytest.fixture(scope="module")
def images() -> tuple[torch.Tensor, torch.Tensor]:
    samples = load_dataset("digits", Path()).samples[:N_IMAGES]
    store = decode_evaluation(samples, SIZE, 1, lambda _: None)
    pixels = torch.from_numpy(store.pixels).view(N_IMAGES, SIZE, SIZE, 3)
    return pixels, torch.tensor([s.label for s in samples])


def found(network: Network, images: tuple[torch.Tensor, torch.Tensor], batch_size: int) -> Predictions:
    pixels, labels = images
    return recompute(network, stored(pixels), labels, batch_size)


def test_equals_a_float64_reference(network: Network, images: tuple[torch.Tensor, torch.Tensor]) -> None:
    pixels, labels = images
    exact = resnet18(10).eval().double()
    exact.load_state_dict({n: t.double() for n, t in network.state_dict().items()})
    mean, std = (np.array(v, np.float64).reshape(1, 3, 1, 1) for v in (MEAN, STD))
    scaled = (pixels.numpy().transpose(0, 3, 1, 2).astype(np.float64) / 255 - mean) / std
    with torch.inference_mode():
        logits = exact(torch.from_numpy(scaled))
    nll = functional.cross_entropy(logits, labels, reduction="none").numpy()
    got = found(network, images, 16)
    np.testing.assert_allclose(got.nll, nll, rtol=0, atol=REFERENCE_TOLERANCE)
    margin = logits.topk(2, dim=1).values.diff(dim=1).abs().min().item()
    assert margin > REFERENCE_TOLERANCE  # so that rounding cannot have decided any prediction
    np.testing.assert_array_equal(got.predicted, logits.argmax(dim=1).numpy())
    metrics = got.metrics(labels.numpy())
    assert metrics.loss_sum == pytest.approx(nll.sum(), abs=N_IMAGES * REFERENCE_TOLERANCE)
    assert metrics.n_correct == int((logits.argmax(dim=1) == labels).sum())


@pytest.mark.parametrize("batch_size", [1, 7, 59, 60, 1000])
def test_does_not_depend_on_the_batch_size(
    network: Network, images: tuple[torch.Tensor, torch.Tensor], batch_size: int
) -> None:
    got, other = found(network, images, batch_size), found(network, images, 16)
    np.testing.assert_allclose(got.nll, other.nll, rtol=0, atol=BATCH_TOLERANCE)
    np.testing.assert_array_equal(got.predicted, other.predicted)


def test_evaluation_sums_in_float64() -> None:
    nll = np.array([2.0**24] + [1.0] * 1001, np.float32)
    exact = 2.0**24 + 1001
    assert float(nll.cumsum(dtype=np.float32)[-1]) != exact  # float32 would lose the small ones
    labels = np.zeros(len(nll), np.int64)
    assert Predictions(labels, nll, nll).metrics(labels).loss_sum == exact


@pytest.mark.usefixtures("narrow")
def test_training_sums_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = load_dataset("digits", Path()).samples[:24]
    labels = torch.tensor([s.label for s in samples])
    held_out = stored(torch.zeros(2, 16, 16, 3, dtype=torch.uint8)), labels[:2]
    images = Images(
        decode_training(samples, 16, 1, lambda _: None), labels, {"val": held_out, "test": held_out}
    )
    losses = iter([2.0**25, 1.0, 1.0])
    real = functional.cross_entropy

    def chosen(logits: torch.Tensor, truth: torch.Tensor, **options: str) -> torch.Tensor:
        loss = real(logits, truth, **options)
        return loss if options else loss * 0 + next(losses)

    monkeypatch.setattr(functional, "cross_entropy", chosen)
    network, recipe = resnet18(10), Recipe(epochs=1, batch_size=8, image_size=16)
    prefix = FrozenPrefix(network, recipe, "fp32")
    trainer = Trainer(network, images, recipe, prefix, peak=1e-9, seed=0, workers=1)
    training = trainer.run(lambda _: None)
    assert training.epochs[0].train.loss_sum == 8 * (2.0**25 + 2)  # float32 has no such number
    assert float(np.float32(8 * (2.0**25 + 2))) != 8 * (2.0**25 + 2)
