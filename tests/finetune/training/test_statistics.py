"""BatchNorm statistics re-estimated before an evaluation: whose, on which images, and with what effect."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from finetune.config.experiment import STANDARD_VARIANTS, Recipe, Variant
from finetune.data.augment import Views, plan_epoch
from finetune.network.network import State, fingerprint
from finetune.system.signals import Stopped
from finetune.training.checkpoint import Checkpoints
from finetune.training.evaluate import normalized
from finetune.training.statistics import FEW_STEPS, N_IMAGES, choose_statistics, n_batches
from finetune.training.trainer import Trainer
from tests.builders.runs import StopAt
from tests.builders.trainers import RECIPE, epochs_without_times, ignore_epoch, random_images, tiny_trainer

A, B, C = STANDARD_VARIANTS
RUNNING = dataclasses.replace(RECIPE, statistics="running")
REESTIMATED = dataclasses.replace(RECIPE, statistics="reestimated")
GAP = Variant(name="G", init="pretrained", train=("layer2", "fc"))
"""Frozen layers behind trained ones."""


def trained(variant: Variant = A, recipe: Recipe = REESTIMATED, **options: Any) -> Trainer:
    made = tiny_trainer(variant, recipe, **options)
    made.run(ignore_epoch)
    return made


def statistics(made: Trainer) -> State:
    return {n: t for n, t in made.network.state_dict().items() if "running" in n}


@pytest.mark.usefixtures("narrow")
class TestReestimation:
    @pytest.mark.parametrize("variant", [A, C, GAP])
    def test_changes_no_weight_and_no_figure_of_training(self, variant: Variant) -> None:
        usual, exact = trained(variant, RUNNING), trained(variant)
        for (name, one), (_, two) in zip(
            usual.network.named_parameters(), exact.network.named_parameters(), strict=True
        ):
            assert torch.equal(one, two), name
        assert [e.train for e in usual.training.epochs] == [e.train for e in exact.training.epochs]
        assert [e.val for e in usual.training.epochs] != [e.val for e in exact.training.epochs]

    @pytest.mark.parametrize("variant", [C, GAP])
    def test_leaves_frozen_layers_as_they_are(self, variant: Variant) -> None:
        before, made = statistics(tiny_trainer(variant)), trained(variant)
        for name, tensor in statistics(made).items():
            assert torch.equal(tensor, before[name]) == (name.partition(".")[0] not in variant.groups), name

    def test_gives_the_mean_of_the_batches_of_the_last_epoch(self) -> None:
        made = trained()
        plan = plan_epoch(made.seed, RECIPE.epochs, made.images.train.sizes, RECIPE)
        seen: list[torch.Tensor] = []
        conv = made.network.get_submodule("conv1")
        with torch.no_grad():
            for start in (0, 8):  # two whole batches; the third has only four images
                index = plan.order[start : start + 8]
                ((_, pixels),) = made.images.train.augmented(plan, [index], RECIPE.image_size, 1)
                seen.append(conv(normalized(pixels, made.device)))
        norm = made.network.get_submodule("bn1")
        assert isinstance(norm, nn.BatchNorm2d)
        means = torch.stack([x.mean((0, 2, 3)) for x in seen])
        variances = torch.stack([x.var((0, 2, 3)) for x in seen])
        torch.testing.assert_close(norm.running_mean, means.mean(0))
        torch.testing.assert_close(norm.running_var, variances.mean(0))
        assert norm.momentum == 0.1

    def test_of_a_layer_without_statistics_takes_no_image(self) -> None:
        head = Variant(name="H", init="random", train="fc")
        one = dataclasses.replace(REESTIMATED, batch_size=1)  # a batch without a variance
        assert trained(head, one, images=random_images(3)).training.failure is None

    def test_repairs_the_evaluation_of_a_network_whose_statistics_lag(self) -> None:
        images = random_images(16)
        images.train.pixels.reshape(16, -1)[:] = (images.train_labels.numpy() * 80)[:, None]
        images.held_out["val"][0].pixels.reshape(9, -1)[:] = (images.held_out["val"][1].numpy() * 80)[:, None]
        options = {"images": images, "recipe": dataclasses.replace(RECIPE, epochs=10, lr=0.02)}
        found = {}
        for kind in ("running", "reestimated"):
            options["recipe"] = dataclasses.replace(options["recipe"], statistics=kind)
            found[kind] = [e.val.loss for e in tiny_trainer(**options).run(ignore_epoch).epochs]
        assert found["reestimated"][0] < found["running"][0]

    def test_uses_cached_features(self) -> None:
        views = Views(RECIPE.epochs, 0)
        one, two = trained(C), trained(C, views=views)
        assert epochs_without_times(one.training) == epochs_without_times(two.training)
        assert fingerprint(one.network.state_dict()) == fingerprint(two.network.state_dict())

    @pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
    def test_a_run_stopped_in_it_goes_on_to_the_same_end(self, n: int, tmp_path: Path) -> None:
        whole, stop = trained(), StopAt(n)
        made = tiny_trainer(A, REESTIMATED, batch_evaluated=stop.check)
        checkpoints = Checkpoints(tmp_path, "A-seed0")
        with pytest.raises(Stopped):
            made.run(ignore_epoch)
        made.settle()
        checkpoints.save(made, 0.0)
        checkpoints.flush()
        resumed = tiny_trainer(A, REESTIMATED)
        assert Checkpoints(tmp_path, "A-seed0").restore(resumed)
        resumed.run(ignore_epoch)
        assert epochs_without_times(resumed.training) == epochs_without_times(whole.training)
        assert fingerprint(resumed.network.state_dict()) == fingerprint(whole.network.state_dict())


class TestChoice:
    @pytest.mark.parametrize("chosen", ["running", "reestimated"])
    def test_what_is_asked_for(self, chosen: str) -> None:
        assert choose_statistics(Recipe(epochs=1, statistics=chosen), 10) == chosen

    def test_auto_counts_the_steps(self) -> None:
        recipe = Recipe(epochs=10, batch_size=4)
        n_train = 4 * FEW_STEPS // 10
        assert choose_statistics(recipe, n_train) == "running"
        assert choose_statistics(recipe, n_train - 4) == "reestimated"

    @pytest.mark.parametrize(
        ("n_train", "batch_size", "expected"),
        [(20, 8, 2), (8, 8, 1), (5, 8, 1), (10**6, 64, N_IMAGES // 64), (10**6, 1000, 1)],
    )
    def test_whole_batches_if_there_is_one(self, n_train: int, batch_size: int, expected: int) -> None:
        assert n_batches(n_train, batch_size) == expected
