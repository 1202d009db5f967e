"""No step waits for its device: PyTorch's device without memory, which has no values to ask for, shows it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from finetune.config.experiment import STANDARD_VARIANTS, Variant
from finetune.data.augment import Views
from finetune.data.device import DeviceImages
from finetune.data.prepare import Images
from finetune.data.store import StoredImages
from finetune.training import evaluate
from finetune.training.features import FeatureCache
from tests.builders.trainers import random_images, tiny_trainer

A, _, C = STANDARD_VARIANTS
CPU, META = torch.device("cpu"), torch.device("meta")

pytestmark = pytest.mark.usefixtures("narrow")  # the property does not depend on the width


class Copies(TorchDispatchMode):
    """Notes each copy from the host to another device, and whether it waits for that device."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[bool] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func is torch.ops.aten._to_copy.default and torch.device(options.get("device") or CPU) != CPU:
            self.waits.append(not options.get("non_blocking"))
        return func(*args, **options)


def on_device(found: Images) -> Images:
    assert isinstance(found.train, StoredImages)
    return Images(DeviceImages(found.train, META), found.train_labels, found.held_out)


@pytest.mark.parametrize("variant", [A, C], ids=lambda v: v.name)
def test_labels_and_crops_are_copied_without_synchronizing(
    variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = copies_of_a_pass(monkeypatch, variant, images=on_device(random_images(n_train=32)))
    assert copies.waits == [False] * 4 * 2


@pytest.mark.parametrize("variant", [A, C], ids=lambda v: v.name)
def test_labels_and_pixels_are_copied_without_synchronizing(
    variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = copies_of_a_pass(monkeypatch, variant, images=random_images(n_train=32))
    assert copies.waits == [False] * 4 * 2


@pytest.mark.parametrize("kept", [META, CPU], ids=str)
def test_cached_features_are_copied_without_synchronizing(
    kept: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = {1: torch.zeros(32, 16, 1, 1, device=kept)}
    copies = copies_of_a_pass(
        monkeypatch, C, images=random_images(n_train=32), views=Views(1, 0), cache=FeatureCache(views=views)
    )
    assert copies.waits == [False] * 4 * 2


def test_statistics_are_reestimated_without_synchronizing(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = copies_of_a_pass(monkeypatch, A, "_reestimate", images=on_device(random_images(n_train=32)))
    assert copies.waits == [False] * 4  # one of crops for each batch; no labels


def copies_of_a_pass(
    monkeypatch: pytest.MonkeyPatch, variant: Variant, work: str = "_pass", **options: Any
) -> Copies:
    """What a pass of four steps copies, but for what a first step makes once."""
    monkeypatch.setattr(
        torch, "autocast", lambda *_, **__: contextlib.nullcontext()
    )  # knows real devices only
    one = tiny_trainer(variant, device=META, **options)
    monkeypatch.setattr(one, "settle", lambda: None)  # at the end the sums are waited for
    evaluate.normalized(torch.zeros(1, 4, 4, 3, dtype=torch.uint8), META)
    with Copies() as copies:
        getattr(one, work)(1)
    return copies
