"""Training one variant: budget, schedule, choice of the epoch, what moves and what does not."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import example, given

from finetune.config.experiment import STANDARD_VARIANTS, Recipe, Variant
from finetune.data.store import StoredImages
from finetune.errors import ConfigError
from finetune.network.network import fingerprint
from finetune.training import trainer as train
from finetune.training.evaluate import normalized
from finetune.training.optimizer import learning_rate
from finetune.training.record import Epoch, Metrics, best_epoch
from finetune.training.requirements import require_batch_statistics
from tests.builders.trainers import RECIPE, epochs_without_times, ignore_epoch, random_images, tiny_trainer

A, B, C = STANDARD_VARIANTS


def epoch(number: int, n_correct: int, loss: float, test_correct: int = 0) -> Epoch:
    return Epoch(
        epoch=number,
        learning_rate=0.1,
        train=Metrics(1.0, 0, 10),
        val=Metrics(loss, n_correct, 10),
        test=Metrics(1.0, test_correct, 10),
        train_seconds=1,
        data_wait_seconds=0,
        evaluation_seconds=0,
    )


class TestBestEpoch:
    @pytest.mark.parametrize(
        ("epochs", "expected"),
        [
            ([(5, 1.0)], 1),
            ([(5, 1.0), (6, 9.0), (4, 0.1)], 2),  # accuracy first
            ([(6, 1.0), (6, 0.5), (6, 0.7)], 2),  # ties by lower loss
            ([(6, 0.5), (6, 0.5), (6, 0.5)], 1),  # then the earlier
            ([(0, 2.0), (0, 1.0)], 2),
        ],
    )
    def test_rule(self, epochs: list[tuple[int, float]], expected: int) -> None:
        assert best_epoch([epoch(i + 1, c, loss) for i, (c, loss) in enumerate(epochs)]) == expected

    @given(
        rows=st.lists(
            st.tuples(st.integers(0, 4), st.sampled_from([0.5, 1.0, 2.0]), st.integers(0, 10)), min_size=1
        )
    )
    def test_the_test_split_never_takes_part(self, rows: list[tuple[int, float, int]]) -> None:
        epochs = [epoch(i + 1, c, loss, t) for i, (c, loss, t) in enumerate(rows)]
        blind = [dataclasses.replace(e, test=Metrics(math.nan, 0, 0)) for e in epochs]
        chosen = best_epoch(epochs)
        assert chosen == best_epoch(blind) == best_epoch(epochs[::-1])
        best = epochs[chosen - 1]
        for other in epochs:
            key = (-other.val.n_correct, other.val.loss_sum, other.epoch)
            assert (-best.val.n_correct, best.val.loss_sum, best.epoch) <= key


class TestLearningRate:
    def rates(self, recipe: Recipe, steps: int, peak: float = 0.1) -> list[float]:
        return [learning_rate(s, steps, recipe, peak) for s in range(recipe.epochs * steps)]

    def test_warm_up_then_cosine(self) -> None:
        rates = self.rates(Recipe(epochs=10, warmup_epochs=1), 4)
        np.testing.assert_allclose(rates[:4], [0.02, 0.04, 0.06, 0.08])
        assert rates[4] == 0.1
        assert rates[4 + 18] == pytest.approx(0.05)  # half-way down
        assert rates[-1] == pytest.approx(0.1 * (1 + math.cos(math.pi * 35 / 36)) / 2)

    def test_none(self) -> None:
        assert self.rates(Recipe(epochs=2, warmup_epochs=0), 3)[0] == 0.1

    def test_half_an_epoch(self) -> None:
        rates = self.rates(Recipe(epochs=5, warmup_epochs=0.5), 4)
        np.testing.assert_allclose(rates[:3], [0.1 / 3, 0.2 / 3, 0.1])

    def test_a_job_shorter_than_two_warm_ups(self) -> None:
        rates = self.rates(Recipe(epochs=2, warmup_epochs=5), 4)
        assert rates.index(max(rates)) == 4
        assert max(rates) == 0.1

    @given(
        epochs=st.integers(1, 30), steps=st.integers(1, 30), warmup=st.floats(0, 40), peak=st.floats(1e-6, 10)
    )
    @example(epochs=1, steps=1, warmup=1.0, peak=1.0)
    def test_between_zero_and_the_peak_with_one_summit(
        self, epochs: int, steps: int, warmup: float, peak: float
    ) -> None:
        rates = self.rates(Recipe(epochs=epochs, warmup_epochs=warmup), steps, peak)
        assert all(0 < r <= peak * (1 + 1e-12) for r in rates)
        summit = rates.index(max(rates))
        assert rates[: summit + 1] == sorted(rates[: summit + 1])
        assert rates[summit:] == sorted(rates[summit:], reverse=True)


@pytest.mark.usefixtures("narrow")
class TestTrainer:
    def test_a_warm_up_meets_every_size_of_batch_and_learns_nothing(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = tiny_trainer(images=random_images(n_train=20, n_held_out=9))
        before, sizes = fingerprint(made.network.state_dict()), set()

        def noted(pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
            sizes.add(len(pixels))
            return normalized(pixels, device)

        monkeypatch.setattr(train, "normalized", noted)
        made._warm_up()
        assert sizes == {8, 4, 1}
        assert fingerprint(made.network.state_dict()) == before
        assert all(p.grad is None for p in made.network.parameters())

    def test_budget_and_sums(self) -> None:
        seen: list[int] = []
        made = tiny_trainer()
        training = made.run(ignore_epoch, seen.append)
        assert seen == [8, 8, 4] * 2
        assert (training.steps, training.images) == (6, 40)
        assert [e.epoch for e in training.epochs] == [1, 2]
        assert all(
            e.train.n_samples == 20 and e.val.n_samples == e.test.n_samples == 9 for e in training.epochs
        )
        assert training.epochs[0].learning_rate == pytest.approx(
            np.mean([learning_rate(s, 3, RECIPE, 0.05) for s in range(3)])
        )
        assert training.failure is None
        for e in training.epochs:
            assert 0 <= e.train.n_correct <= 20
            assert e.train.loss > 0
            assert e.train_seconds >= e.data_wait_seconds >= 0
            assert e.train_cpu_seconds > 0
            assert e.commitment == e.weights_sha256 == ""  # to no start, to nothing
            assert e.evaluation_seconds > 0

    def test_first_step_is_the_textbooks(self) -> None:
        recipe = dataclasses.replace(RECIPE, epochs=1, batch_size=20, warmup_epochs=0, weight_decay=0.1)
        made = tiny_trainer(recipe=recipe)
        start = {n: p.detach().clone() for n, p in made.network.named_parameters()}
        made.run(ignore_epoch)
        for name, parameter in made.network.named_parameters():
            assert parameter.grad is not None
            gradient = parameter.grad + (0.1 * start[name] if parameter.ndim > 1 else 0)
            # Nesterov's first step with momentum 0.9 is 1.9 gradients long.
            expected = start[name] - 0.05 * 1.9 * gradient
            torch.testing.assert_close(parameter.detach(), expected, rtol=1e-4, atol=1e-6)

    def test_the_chosen_epochs_predictions_are_kept(self) -> None:
        made = tiny_trainer(recipe=dataclasses.replace(RECIPE, epochs=4))
        training = made.run(ignore_epoch)
        assert training.best_epoch is not None
        best = training.epochs[training.best_epoch - 1]
        for split in ("val", "test"):
            labels = made.images.held_out[split][1].numpy()
            assert training.best_predictions[split].metrics(labels) == getattr(best, split)

    def test_learns(self) -> None:
        data = random_images(16)
        pixels = data.train.pixels.reshape(16, -1)
        pixels[:] = (data.train_labels.numpy() * 80)[:, None]  # brightness tells the class
        recipe = dataclasses.replace(RECIPE, epochs=20, lr=0.02)
        losses = [e.train.loss for e in tiny_trainer(recipe=recipe, images=data).run(ignore_epoch).epochs]
        assert losses[-1] < losses[0] / 2

    @pytest.mark.parametrize(
        "variant",
        [
            C,
            Variant(name="H", init="pretrained", train="fc"),
            Variant(name="M", init="random", train=("conv1", "fc")),
        ],
    )
    def test_frozen_stays_bit_identical_and_the_rest_moves(self, variant: Variant) -> None:
        made = tiny_trainer(variant)
        before = {n: t.clone() for n, t in made.network.state_dict().items()}
        digest = made.network.frozen_sha256()
        made.run(ignore_epoch)
        assert made.network.frozen_sha256() == digest
        for name, tensor in made.network.state_dict().items():
            moved = not torch.equal(tensor, before[name])
            assert moved == (name.partition(".")[0] in variant.groups), name

    def test_all_train(self) -> None:
        made = tiny_trainer(B)
        before = {n: t.clone() for n, t in made.network.state_dict().items()}
        made.run(ignore_epoch)
        assert all(not torch.equal(t, before[n]) for n, t in made.network.state_dict().items())

    def test_the_same_stream_for_all_variants(self) -> None:
        runs = [tiny_trainer(v).run(ignore_epoch) for v in (A, B, C)]
        assert len({t.stream_sha256 for t in runs}) == 1
        assert len({(t.steps, t.images) for t in runs}) == 1
        assert len(runs[0].stream_sha256) == 64

    def test_another_stream_for_another_seed(self) -> None:
        assert (
            tiny_trainer().run(ignore_epoch).stream_sha256
            != tiny_trainer(seed=1).run(ignore_epoch).stream_sha256
        )

    def test_neither_workers_nor_batch_size_change_the_stream(self) -> None:
        other = dataclasses.replace(RECIPE, batch_size=5)
        runs = [
            tiny_trainer().run(ignore_epoch),
            tiny_trainer(workers=3).run(ignore_epoch),
            tiny_trainer(recipe=other).run(ignore_epoch),
        ]
        assert len({t.stream_sha256 for t in runs}) == 1
        assert epochs_without_times(runs[0]) == epochs_without_times(runs[1])

    def test_two_runs_are_identical(self) -> None:
        one, two = tiny_trainer(C), tiny_trainer(C)
        assert epochs_without_times(one.run(ignore_epoch)) == epochs_without_times(two.run(ignore_epoch))
        assert fingerprint(one.network.state_dict()) == fingerprint(two.network.state_dict())

    def test_the_test_split_changes_nothing_but_its_own_row(self) -> None:
        usual, other = random_images(), random_images()
        pixels, labels = other.held_out["test"]
        other.held_out["test"] = (StoredImages(255 - pixels.pixels, pixels.sizes), (labels + 1) % 4)
        one, two = tiny_trainer(images=usual).run(ignore_epoch), tiny_trainer(images=other).run(ignore_epoch)
        assert [(e.train, e.val) for e in one.epochs] == [(e.train, e.val) for e in two.epochs]
        assert [e.test for e in one.epochs] != [e.test for e in two.epochs]
        assert one.best_epoch == two.best_epoch

    def test_a_nan_loss_ends_it(self) -> None:
        ended: list[Epoch] = []
        training = tiny_trainer(recipe=dataclasses.replace(RECIPE, epochs=5), peak=1e12).run(ended.append)
        assert training.failure is not None
        assert "the loss was no longer finite at a peak learning rate of 1e+12" in training.failure
        assert len(training.epochs) < 5
        assert training.epochs == ended
        assert all(math.isfinite(m.loss_sum) for e in ended for m in (e.train, e.val, e.test))

    def test_callbacks_may_stop_it(self) -> None:
        class Enough(Exception):  # noqa: N818 - no error
            pass

        def stop() -> Callable[..., None]:
            def raising(*_: object) -> None:
                raise Enough

            return raising

        with pytest.raises(Enough):
            tiny_trainer(batch_evaluated=stop()).run(ignore_epoch)
        with pytest.raises(Enough):
            tiny_trainer().run(ignore_epoch, stop())
        with pytest.raises(Enough):
            tiny_trainer().run(stop())

    @pytest.mark.parametrize(("n_train", "batch_size"), [(17, 8), (4, 1)])
    def test_a_batch_of_one_image_has_no_statistics(self, n_train: int, batch_size: int) -> None:
        recipe = dataclasses.replace(RECIPE, batch_size=batch_size)
        with pytest.raises(
            ConfigError, match=r"a single image .* another --batch-size, or an --image-size above 32"
        ):
            require_batch_statistics(A, n_train, recipe)
        head = Variant(name="H", init="random", train="fc")
        require_batch_statistics(head, n_train, recipe)
        assert tiny_trainer(head, recipe, images=random_images(n_train)).run(ignore_epoch).failure is None
        require_batch_statistics(A, n_train, dataclasses.replace(recipe, image_size=33))
