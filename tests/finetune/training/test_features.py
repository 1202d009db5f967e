"""Outputs of a frozen prefix that are cached: the same training as if they were computed each time."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune.config.experiment import STANDARD_VARIANTS, Recipe, Variant
from finetune.config.presets import load_preset
from finetune.data.augment import Plan, Views, crop, plan_epoch
from finetune.data.store import StoredImages
from finetune.network.network import Network
from finetune.network.resnet18 import build, resnet18, state_shapes
from finetune.network.weights import load_weights
from finetune.run.experiment import Prepared, run_experiment
from finetune.system.signals import Stopped, StopRequest
from finetune.training import features
from finetune.training.evaluate import normalized
from finetune.training.features import FeatureCache, FrozenPrefix
from tests.builders.config import tiny_config
from tests.builders.networks import use_narrow_network
from tests.builders.runs import RecordingReporter, StopAt
from tests.compare_runs import file_digests, without_times

A, B, C = STANDARD_VARIANTS
FROZEN = dataclasses.replace(C, init="random")
HEAD = Variant(name="H", init="pretrained", train=("fc",))
CPU = torch.device("cpu")
SIZES = np.tile(np.array([[40, 50]]), (30, 1))
MIRRORING = Recipe(epochs=4, image_size=64, flip_probability=0.5)
N_TRAIN, N_HELD_OUT = 20, 40
"""Images of an experiment with `tiny`."""

Run = Callable[..., dict[str, Any]]


def drawn(seed: int, epoch: int, views: Views | None = None) -> Plan:
    return plan_epoch(seed, epoch, SIZES, MIRRORING, views)


def same_images(one: Plan, two: Plan) -> bool:
    return np.array_equal(one.boxes, two.boxes) and np.array_equal(one.flips, two.flips)


class TestViews:
    @pytest.mark.parametrize("epoch", [1, 2, 4])
    def test_as_many_as_epochs_do_not_change_the_first_seed(self, epoch: int) -> None:
        fresh, viewed = drawn(7, epoch), drawn(7, epoch, Views(4, 7))
        assert np.array_equal(fresh.order, viewed.order)
        assert same_images(fresh, viewed)
        assert fresh.digest("") == viewed.digest("")

    def test_another_seed_has_its_own_order_of_the_same_crops_and_flips(self) -> None:
        own, other = drawn(7, 2, Views(4, 7)), drawn(8, 2, Views(4, 7))
        assert same_images(own, other)
        assert np.array_equal(other.order, drawn(8, 2).order)
        assert not np.array_equal(own.order, other.order)
        assert not same_images(other, drawn(8, 2))

    def test_fewer_than_epochs_are_used_in_turn(self) -> None:
        plans = [drawn(0, epoch, Views(3, 0)) for epoch in range(1, 8)]
        assert [Views(3, 0).of_epoch(epoch) for epoch in range(1, 8)] == [1, 2, 3, 1, 2, 3, 1]
        for i, one in enumerate(plans):
            for j, two in enumerate(plans):
                assert same_images(one, two) == (i % 3 == j % 3)
                assert np.array_equal(one.order, two.order) == (i == j)

    @pytest.mark.slow
    def test_all_variants_of_a_seed_have_the_same_stream(self, experiment: Run, tmp_path: Path) -> None:
        record = experiment(tmp_path / "run", seeds=2, cache_views=1)
        streams = [run["budget"]["stream_sha256"] for run in record["runs"]]
        assert [run["variant"] for run in record["runs"]] == ["A", "B", "C"] * 2
        assert len(set(streams[:3])) == len(set(streams[3:])) == 1
        assert streams[0] != streams[3]  # the order is each seed's own


def random_images(n: int, side: int) -> StoredImages:
    pixels = np.random.default_rng(0).integers(0, 256, n * side * side * 3, dtype=np.uint8)
    return StoredImages(pixels, np.tile(np.array([[side, side]]), (n, 1)))


def cached_view(
    network: Network, store: StoredImages, plan: Plan, image_size: int, batch_size: int
) -> torch.Tensor:
    """Features of the view that the plan describes, as they are cached."""
    recipe = Recipe(batch_size=batch_size, image_size=image_size)
    prefix = FrozenPrefix(network, recipe, "fp32", Views(1, 0))
    prefix.training(1, plan, [], store, 1)
    return prefix.cache.views[1]


def live_images(store: StoredImages, plan: Plan, image_size: int) -> torch.Tensor:
    """All images, augmented and normalized, in their own order."""
    pixels = [crop(store.image(i), plan.boxes[i], bool(plan.flips[i]), image_size) for i in range(len(store))]
    return normalized(torch.from_numpy(np.stack(pixels)), CPU)


class TestCachedView:
    @pytest.mark.usefixtures("narrow")
    def test_logits_are_those_of_the_whole_network(self) -> None:
        self.compare(build(FROZEN, 10, 0, None), n=21, image_size=64)

    def test_logits_are_those_of_the_real_network(self) -> None:
        self.compare(build(C, 10, 0, load_weights("bundled", state_shapes(10)).state), n=9, image_size=32)

    def compare(self, network: Network, n: int, image_size: int) -> None:
        network.to(memory_format=torch.channels_last)
        store = random_images(n, image_size)
        plan = plan_epoch(0, 1, store.sizes, MIRRORING)
        cached = cached_view(network, store, plan, image_size, 4)
        order = torch.from_numpy(plan.order)
        with torch.no_grad():
            expected = network.eval()(live_images(store, plan, image_size))[order]
            found = network.suffix(cached[order])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        assert not torch.allclose(found[0], expected[1], rtol=1e-2)  # the tolerance tells images apart
        assert cached.is_contiguous(memory_format=torch.channels_last)

    @pytest.mark.usefixtures("narrow")
    def test_images_are_mirrored_and_features_never(self) -> None:
        network, store = build(FROZEN, 10, 0, None), random_images(8, 64)
        plan = plan_epoch(0, 1, store.sizes, MIRRORING)
        assert 0 < plan.flips.sum() < 8
        straight = dataclasses.replace(plan, flips=np.zeros(8, dtype=np.bool_))
        cached = cached_view(network, store, plan, 64, 3)
        expected = network.features(live_images(store, plan, 64))
        torch.testing.assert_close(cached, expected, rtol=1e-4, atol=1e-5)
        of_straight = network.features(live_images(store, straight, 64))
        for i, flipped in enumerate(plan.flips):
            assert torch.allclose(cached[i], of_straight[i], rtol=1e-4, atol=1e-5) == (not flipped)
            assert not torch.allclose(cached[i], of_straight[i].flip(2), rtol=1e-2, atol=1e-3)

    @pytest.mark.usefixtures("narrow")
    def test_can_be_stopped_after_each_batch(self) -> None:
        ended: list[int] = []
        network, store = build(FROZEN, 10, 0, None), random_images(7, 16)
        recipe = Recipe(batch_size=3, image_size=16)
        prefix = FrozenPrefix(network, recipe, "fp32", Views(1, 0), batch_ended=lambda: ended.append(1))
        prefix.training(1, plan_epoch(0, 1, store.sizes, recipe), [], store, 1)
        assert len(ended) == 3
        assert not network.training


@pytest.fixture
def prefix_images(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of real images that frozen prefixes were given since the test began."""
    seen: list[int] = []
    real = Network.features

    def counted(self: Network, images: torch.Tensor) -> torch.Tensor:
        if self.n_frozen_stages > 0 and not images.is_meta and images.any():  # zeros only ask for the size
            seen.append(len(images))
        return real(self, images)

    monkeypatch.setattr(Network, "features", counted)
    return seen


class TestSharing:
    @pytest.mark.parametrize(
        ("variant", "cache_views", "expected"),
        [
            (C, None, N_TRAIN * 3 * 2 + N_HELD_OUT),
            (C, 1, N_TRAIN + N_HELD_OUT),
            (C, 2, N_TRAIN * 2 + N_HELD_OUT),
            (C, 3, N_TRAIN * 3 + N_HELD_OUT),
            # Each seed's frozen layers are its own.
            (FROZEN, 1, 2 * (N_TRAIN + N_HELD_OUT)),
            (HEAD, 2, N_TRAIN * 2 + N_HELD_OUT),
        ],
    )
    def test_each_image_and_view_is_computed_once_over_three_epochs_and_two_seeds(
        self,
        experiment: Run,
        tmp_path: Path,
        prefix_images: list[int],
        variant: Variant,
        cache_views: int | None,
        expected: int,
    ) -> None:
        fields: dict[str, Any] = {"seeds": 2, "epochs": 3, "cache_views": cache_views}
        # Cached views serve the re-estimation of statistics too; without them it computes features again.
        fields["statistics"] = "reestimated" if cache_views else "running"
        record = experiment(tmp_path / "run", variants=(variant,), **fields)
        assert sum(prefix_images) == expected
        assert record["config"]["cache_views"] == cache_views
        assert [run["budget"]["images"] for run in record["runs"]] == [N_TRAIN * 3] * 2

    @pytest.mark.slow
    @pytest.mark.parametrize("init", ["pretrained", "random"])
    def test_features_cached_by_another_seed_change_nothing(
        self, experiment: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, init: str
    ) -> None:
        fields = {"variants": (dataclasses.replace(C, init=init),), "seeds": 2, "cache_views": 1}
        shared = experiment(tmp_path / "shared", **fields)
        monkeypatch.setattr(Prepared, "features_of", lambda *_: FeatureCache())
        assert without_times(experiment(tmp_path / "apart", **fields)) == without_times(shared)

    @pytest.mark.slow
    def test_as_many_views_as_epochs_train_as_without_the_option(
        self, experiment: Run, tmp_path: Path
    ) -> None:
        live = experiment(tmp_path / "live", flip_probability=0.5, epochs=3)
        cached = experiment(tmp_path / "kept", flip_probability=0.5, epochs=3, cache_views=3)
        for one, two in zip(live["runs"], cached["runs"], strict=True):
            assert one["budget"] == two["budget"]
            for before, after in zip(one["epochs"], two["epochs"], strict=True):
                for split in ("train", "val", "test"):
                    assert after[split]["loss_sum"] == pytest.approx(before[split]["loss_sum"], rel=1e-4)
                    assert after[split]["n_correct"] == before[split]["n_correct"]
        a, b, c = cached["runs"]
        assert [a["epochs"], b["epochs"]] != [c["epochs"]] * 2

    def test_fewer_views_train_differently(self, experiment: Run, tmp_path: Path) -> None:
        live = experiment(tmp_path / "live", variants=(C,))
        cached = experiment(tmp_path / "kept", variants=(C,), cache_views=1)
        (one,), (two,) = live["runs"], cached["runs"]
        assert one["epochs"][0]["train"]["loss_sum"] == pytest.approx(two["epochs"][0]["train"]["loss_sum"])
        assert one["epochs"][1]["train"]["loss_sum"] != pytest.approx(two["epochs"][1]["train"]["loss_sum"])


class TestRoom:
    def test_features_too_large_for_memory_are_in_a_file(
        self, experiment: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        in_memory = experiment(tmp_path / "memory", variants=(C,), cache_views=2)
        stores: list[type] = []
        real = features.allocate

        def watched(n_bytes: int) -> Any:
            store = real(n_bytes)
            stores.append(type(store))
            return store

        monkeypatch.setattr(features, "allocate", watched)
        monkeypatch.setattr("finetune.data.store.available_memory_bytes", lambda: 0)
        in_file = experiment(tmp_path / "file", variants=(C,), cache_views=2)
        assert stores == [np.memmap] * 2
        assert without_times(in_file) == without_times(in_memory)

    def test_features_are_recomputed_if_they_do_not_fit(
        self, experiment: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix_images: list[int]
    ) -> None:
        # Running statistics, for which no image is used twice in an epoch.
        fields: dict[str, Any] = {"variants": (C,), "statistics": "running"}
        cached = experiment(tmp_path / "kept", **fields)
        assert sum(prefix_images) == N_TRAIN * 2 + N_HELD_OUT
        prefix_images.clear()
        monkeypatch.setattr("finetune.training.features.cacheable_bytes", lambda _: 0)
        assert without_times(experiment(tmp_path / "computed", **fields)) == without_times(cached)
        assert sum(prefix_images) == (N_TRAIN + N_HELD_OUT) * 2


class TestAuto:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"seeds": 2}, 2),
            ({"seeds": 2, "epochs": 3}, 3),
            ({"seeds": 1}, None),  # no other seed shares them
            ({"seeds": 2, "variants": (A, B)}, None),  # nothing is frozen
        ],
    )
    def test_is_resolved_when_a_run_starts(
        self, experiment: Run, tmp_path: Path, fields: dict[str, Any], expected: int | None
    ) -> None:
        record = experiment(tmp_path / "run", **{"variants": (A, C), **fields}, cache_views="auto")
        table = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
        assert table.get("cache_views") == record["config"]["cache_views"] == expected

    @pytest.mark.slow
    @pytest.mark.parametrize(("spare_bytes", "expected"), [(0, None), (1, 2)])
    def test_requires_memory_for_every_view_of_every_frozen_prefix(
        self,
        experiment: Run,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        spare_bytes: int,
        expected: int | None,
    ) -> None:
        recipe = Recipe(image_size=16)
        prefixes = [FrozenPrefix(resnet18(10, v.groups), recipe, "fp32") for v in (C, HEAD)]
        one_image = sum(prefix.bytes_per_image for prefix in prefixes)
        room = one_image * N_TRAIN * 2 + spare_bytes
        monkeypatch.setattr("finetune.run.prepare.cacheable_bytes", lambda _: room)
        record = experiment(tmp_path / "run", variants=(A, C, HEAD), seeds=2, cache_views="auto")
        assert record["config"]["cache_views"] == expected


FIELDS: dict[str, Any] = {"variants": (C,), "cache_views": 1, "seeds": 2}


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, narrow_file: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    """Results without times and the files of an experiment with these fields that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_narrow_network(monkeypatch, draw=False)
        config = tiny_config(weights=str(narrow_file), **FIELDS)
        record = run_experiment(config, out, RecordingReporter(), StopRequest())
    return without_times(record), file_digests(out)


class TestResume:
    """Three batches of features, then two epochs of ten safe points; the other seed finds the features."""

    @pytest.mark.parametrize("n", [1, 3, 4, 5, 9, 13, 15, 23 + 2])
    def test_a_signal_anywhere(
        self, experiment: Run, tmp_path: Path, whole: tuple[dict[str, Any], dict[str, str]], n: int
    ) -> None:
        with pytest.raises(Stopped):
            experiment(tmp_path / "run", **FIELDS, stop=StopAt(n))
        resumed = experiment(tmp_path / "run", **FIELDS, resume=True)
        assert without_times(resumed) == whole[0]
        assert file_digests(tmp_path / "run") == whole[1]

    @pytest.mark.slow
    def test_auto_resumes_with_the_value_it_started_with(
        self, experiment: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fields = {"variants": (C,), "cache_views": "auto", "seeds": 2}
        whole = experiment(tmp_path / "whole", **{**fields, "cache_views": 2})
        with pytest.raises(Stopped):
            experiment(tmp_path / "run", **fields, stop=StopAt(5))
        monkeypatch.setattr("finetune.run.prepare.cacheable_bytes", lambda _: 0)
        config = load_preset(str(tmp_path / "run" / "config.toml"))
        resumed = run_experiment(config, tmp_path / "run", RecordingReporter(), StopRequest(), resume=True)
        assert without_times(resumed) == without_times(whole)
