"""What mutation testing found that no other test would notice."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.config.experiment import Recipe
from finetune.data.datasets import load_dataset
from finetune.data.prepare import Images
from finetune.data.splits import make_splits
from finetune.network.resnet18 import resnet18
from finetune.training.features import FrozenPrefix
from finetune.training.record import Predictions
from finetune.training.trainer import Trainer
from tests.builders.images import decode_training, stored


@pytest.fixture
def trainer(narrow: None) -> Trainer:  # noqa: ARG001 - wanted for its effect
    """Two epochs over 24 digits, all labelled 0, with a network that says 0 of everything and stays so."""
    samples = load_dataset("digits", Path()).samples[:24]
    labels = torch.zeros(24, dtype=torch.int64)
    held_out = stored(torch.zeros(2, 16, 16, 3, dtype=torch.uint8)), labels[:2]
    store = decode_training(samples, 16, 1, lambda _: None)
    network = resnet18(10)
    with torch.no_grad():
        network.fc.weight.zero_()
        network.fc.bias[0] = 50.0
    recipe = Recipe(epochs=2, batch_size=8, image_size=16)
    return Trainer(
        network,
        Images(store, labels, {"val": held_out, "test": held_out}),
        recipe,
        FrozenPrefix(network, recipe, "fp32"),
        peak=1e-9,
        seed=0,
        workers=1,
    )


def test_each_epoch_counts_from_zero(trainer: Trainer) -> None:
    epochs = trainer.run(lambda _: None).epochs
    assert [e.train.n_correct for e in epochs] == [24, 24]
    assert [e.train.n_samples for e in epochs] == [24, 24]


@pytest.mark.parametrize("where", ["train", "val", "test", None])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_nan_loss_is_enough(trainer: Trainer, where: str | None, value: float) -> None:
    trainer.training.current.batches = 1
    trainer.training.current.loss_sum = value if where == "train" else 1.0
    predictions = {
        split: Predictions(
            np.zeros(2, np.int64),
            np.array([value if where == split else 1, 1], np.float32),
            np.ones(2, np.float32),
        )
        for split in ("val", "test")
    }
    trainer._conclude(1, predictions, {}, 0.0)
    assert (trainer.training.failure is None) == (where is None)
    assert len(trainer.training.epochs) == (where is None)


def test_splits_by_name_and_their_labels() -> None:
    splits = make_splits(load_dataset("digits", Path()), None, 3, 0, 1)
    assert splits.by_name == {"train": splits.train, "val": splits.val, "test": splits.test}
    for split in splits.by_name.values():
        assert split.labels().dtype == np.int64
        assert split.labels().tolist() == [s.label for s in split.samples]
        assert sorted(set(split.labels().tolist())) == list(range(10))
