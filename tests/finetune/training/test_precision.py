"""bf16: where it is chosen and refused, and that only convolutions and matrix products are computed in it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from finetune.config.experiment import STANDARD_VARIANTS, Variant
from finetune.errors import ConfigError
from finetune.network.resnet18 import build
from finetune.system.session import undisturbed
from finetune.training.features import FrozenPrefix
from finetune.training.precision import choose_precision, mixed
from grader.findings import Status
from grader.grading.grade import Job, grade
from grader.grading.policy import load_policy
from grader.reading.schema import schema_problems
from tests.builders.networks import recompute
from tests.builders.trainers import RECIPE, ignore_epoch, random_images, tiny_trainer

A, B, C = STANDARD_VARIANTS
CPU = torch.device("cpu")
SMALL = dataclasses.replace(RECIPE, image_size=24)  # but not so small that a CPU corrupts bf16's gradients
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Says whether CPU and GPU can compute in bf16."""

    def say(can: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: can)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: can)

    return say


def test_fp32_is_not_tf32() -> None:
    with undisturbed():
        torch.backends.cudnn.allow_tf32 = True
        choose_precision("fp32", CPU, 64)
        assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.conv.fp32_precision != "tf32"


class TestChoice:
    @pytest.mark.parametrize(
        ("asked", "device", "can", "expected"),
        [
            ("auto", "cuda", True, "bf16"),
            ("auto", "cuda", False, "fp32"),
            ("auto", "cpu", True, "bf16"),
            ("auto", "cpu", False, "fp32"),
            ("fp32", "cuda", True, "fp32"),
            ("fp32", "cpu", False, "fp32"),
            ("bf16", "cuda", True, "bf16"),
            ("bf16", "cpu", True, "bf16"),
        ],
    )
    def test_of_each_device(
        self, able: Callable[[bool], None], asked: str, device: str, can: bool, expected: str
    ) -> None:
        able(can)
        assert choose_precision(asked, torch.device(device), 17) == expected

    @pytest.mark.parametrize(("device", "name"), [("cpu", "CPU"), ("cuda", "GPU")])
    def test_bf16_is_refused_without_instructions(
        self, able: Callable[[bool], None], device: str, name: str
    ) -> None:
        able(False)
        with pytest.raises(
            ConfigError,
            match=rf"^--precision bf16 needs a device with bf16 .* but this {name} has none for "
            r"images of 224 pixels; use --precision fp32 or auto\.$",
        ):
            choose_precision("bf16", torch.device(device), 224)

    def test_a_cpu_corrupts_gradients_of_small_images(self, able: Callable[[bool], None]) -> None:
        """oneDNN leaves a part of layer4's first one unwritten where that sees a single pixel."""
        able(True)
        assert choose_precision("auto", CPU, 16) == "fp32"
        with pytest.raises(
            ConfigError, match=r"of more than 16 pixels\), but this CPU has none for images of 16 pixels;"
        ):
            choose_precision("bf16", CPU, 16)

    def test_a_gpu_that_only_emulates_it_does_not_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation
        )
        assert choose_precision("auto", torch.device("cuda"), 16) == "fp32"


def test_only_bf16_mixes() -> None:
    factors = torch.ones(2, 2)
    for precision, expected in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with mixed(precision, CPU):
            assert (factors @ factors).dtype == expected


@pytest.mark.skipif(not torch.cpu._is_avx512_bf16_supported(), reason="needs a CPU with AVX-512 BF16")
@pytest.mark.parametrize("size", [17, 24, 33])
def test_no_gradient_is_left_unwritten(size: int) -> None:
    """At 16 pixels, which is refused, oneDNN leaves a part of layer4's first as memory had it."""
    gradients = []
    for precision in ("fp32", "bf16"):
        network = build(A, 10, 0, None).to(memory_format=torch.channels_last)
        images = torch.randn(16, 3, size, size, generator=torch.Generator().manual_seed(0))
        torch.full((10_000_000,), 1e3)  # freed at once, to be found by what takes memory next
        with mixed(precision, CPU):
            logits = network(images.to(memory_format=torch.channels_last))
        functional.cross_entropy(logits.float(), torch.arange(16) % 10).backward()
        gradients.append([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    for fp32, bf16 in zip(*gradients, strict=True):
        assert functional.cosine_similarity(fp32, bf16, dim=0) > 0.8
        assert bf16.norm() < 1.5 * fp32.norm()


@pytest.mark.usefixtures("narrow")
class TestTraining:
    @pytest.mark.parametrize("variant", [A, C], ids=["A", "C"])
    def test_is_close_to_fp32(self, variant: Variant) -> None:
        recipe = dataclasses.replace(SMALL, lr=1e-3)  # at larger ones a rounding grows to any size
        fp32, bf16 = (
            tiny_trainer(variant, recipe, precision=precision).run(ignore_epoch).epochs
            for precision in ("fp32", "bf16")
        )
        for one, two in zip(fp32, bf16, strict=True):
            for split in ("train", "val", "test"):
                expected, found = getattr(one, split), getattr(two, split)
                assert found.loss == pytest.approx(expected.loss, rel=0.25)
                assert found.loss != expected.loss  # else it was not bf16
                assert found.n_samples == expected.n_samples

    def test_parameters_momentum_and_gradients_stay_in_fp32(self) -> None:
        made = tiny_trainer(recipe=SMALL, precision="bf16")
        made.run(ignore_epoch)
        assert {t.dtype for t in made.network.state_dict().values()} == {torch.float32, torch.int64}
        assert {p.grad.dtype for p in made.network.parameters() if p.grad is not None} == {torch.float32}
        momentum = [state["momentum_buffer"] for state in made.optimizer.state.values()]
        assert {buffer.dtype for buffer in momentum} == {torch.float32}

    def test_losses_are_computed_in_fp32(self) -> None:
        """bf16 has eight digits of two: of its losses few would have more."""
        made = tiny_trainer(recipe=SMALL, precision="bf16")
        training = made.run(ignore_epoch)
        for predictions in training.best_predictions.values():
            nll = torch.from_numpy(predictions.nll)
            assert nll.dtype == torch.float32
            assert (nll != nll.bfloat16().float()).any()
            assert len(set(nll.tolist())) > len(nll) // 2

    def test_cached_features_have_the_size_of_the_precision(self) -> None:
        network = build(Variant(name="F", init="random", train=("layer4", "fc")), 4, 0, None)
        fp32, bf16 = (FrozenPrefix(network, RECIPE, p).bytes_per_image for p in ("fp32", "bf16"))
        assert fp32 == 2 * bf16

    def test_evaluation_is_close_to_fp32(self) -> None:
        network = build(A, 4, 0, None)
        pixels, labels = random_images(n_held_out=40, image_size=SMALL.image_size).held_out["val"]
        fp32, bf16 = (
            recompute(network, pixels, labels, 16, precision=precision) for precision in ("fp32", "bf16")
        )
        np.testing.assert_allclose(bf16.nll, fp32.nll, rtol=0.05, atol=0.05)
        assert not np.array_equal(bf16.nll, fp32.nll)
        assert (bf16.predicted == fp32.predicted).mean() > 0.9
        assert bf16.nll.dtype == np.float32


class TestRecord:
    @pytest.mark.parametrize(
        ("precision", "expected"), [("auto", "bf16"), ("bf16", "bf16"), ("fp32", "fp32")]
    )
    def test_names_what_was_computed_in(
        self,
        experiment: Run,
        able: Callable[[bool], None],
        tmp_path: Path,
        precision: str,
        expected: str,
    ) -> None:
        able(True)
        record = experiment(
            tmp_path / "run", variants=(C,), precision=precision, cache_views=1, image_size=32
        )
        assert record["config"]["precision"] == expected
        assert f'precision = "{expected}"\n' in (tmp_path / "run" / "config.toml").read_text()
        assert [run["status"] for run in record["runs"]] == ["completed"]

    def test_files_without_the_newer_fields_are_graded_alike(self, experiment: Run, tmp_path: Path) -> None:
        experiment(tmp_path / "run")
        path = tmp_path / "run" / "results.json"
        record = json.loads(path.read_text("utf-8"))
        policy = load_policy("default")
        newer = grade(Job(tmp_path / "run", "run", policy))
        for field in ("precision", "cache_views", "processes"):
            del record["config"][field]
        assert not list(schema_problems(record))
        path.write_text(json.dumps(record), "utf-8")
        older = grade(Job(tmp_path / "run", "run", policy))
        assert not older.problems
        assert older.findings["times-add-up"].status is Status.HOLDS
        assert [(n, f.status) for n, f in older.findings.items()] == [
            (n, f.status) for n, f in newer.findings.items()
        ]

    @pytest.mark.parametrize(
        ("field", "value"),
        [("precision", "fp16"), ("precision", "auto"), ("cache_views", "auto"), ("processes", 0)],
    )
    def test_values_that_nothing_was_computed_with_do_not_fit_the_schema(
        self,
        stopped_at: Callable[[Path, int], dict[str, Any] | None],
        tmp_path: Path,
        field: str,
        value: object,
    ) -> None:
        stopped_at(tmp_path / "run", 10**9)
        record = json.loads((tmp_path / "run" / "results.json").read_text("utf-8"))
        record["config"][field] = value
        assert field in next(schema_problems(record))
