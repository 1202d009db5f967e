"""Honest runs are not called forged: real ones of every kind, judged by every integrity property.

The network is narrow, and the grader is told its shapes, so that each kind takes about a second. What only
--rerun and --replay show, other tests ask of the whole network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.config.experiment import STANDARD_VARIANTS, Variant
from finetune.config.tune import Tune
from finetune.run.merge import merge_runs
from finetune.system.signals import Stopped
from grader.checks import PROPERTIES
from grader.findings import Status
from grader.grading.grade import Job, grade
from grader.grading.policy import load_policy
from grader.submission import checkpoints, resnet18
from tests.builders.images import image_tree, photo
from tests.builders.networks import narrow_stages
from tests.builders.runs import RecordingReporter, StopAt, results_of

A, B, C = STANDARD_VARIANTS
FC = Variant(name="fc", init="pretrained", train=("fc",))
LONGER = replace(A, name="A3", epochs=6)
ADAPTING = replace(C, name="C-adapt", norm="adapt")
AFTER = Variant(name="LP-FT", init="pretrained", train="all", head="fc")
DIVERGING = replace(B, name="B", lr=1e30)
RATES = (0.01, 0.02, 0.04)

Run = Callable[..., dict[str, Any]]

KINDS: dict[str, dict[str, Any]] = {
    "A, B and C": {},
    "bf16": {"precision": "bf16", "image_size": 32},
    "one epoch": {"epochs": 1},
    "several seeds, states kept": {"seeds": 3, "keep_states": 1, "variants": (A, C)},
    "a batch larger than the set": {"batch_size": 512},
    "all the digits of a class": {"subset": 100, "batch_size": 64, "variants": (A, C)},
    "a split for each seed": {"seeds": 2, "resplit": True, "variants": (A, C)},
    "shares": {"split": "60-20-20", "near_duplicates": "together", "variants": (B, C)},
    "cached features": {"cache_views": 2},
    "one variant fails": {"variants": (A, DIVERGING, C)},
    "all variants fail": {"lr": 1e30},
    "rates so high that nothing is learned": {"lr": 3.0, "seeds": 2},
    "rates so low that nothing is learned": {"lr": 1e-8, "seeds": 2},
    "rows that differ in what they hardly train": {"lr": 1e-8, "epochs": 4, "variants": (B, ADAPTING)},
    "random starts alone": {"variants": (A, LONGER), "weights": "imagenet"},
    "rows of their own kind": {"variants": (A, LONGER, FC, C, ADAPTING, AFTER), "lr": 0.01},
    "tuned by halving": {"tune": Tune(rates=RATES), "epochs": 3, "variants": (A, FC, AFTER)},
    "tuned in full, a split for each seed": {
        "tune": Tune(mode="full", rates=RATES), "seeds": 2, "resplit": True, "variants": (A, C),
    },
    "tuned at rates that diverge": {"tune": Tune(rates=(0.01, 1e20, 1e30)), "variants": (A, C)},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _narrow_to_the_grader(monkeypatch: pytest.MonkeyPatch, narrow: None) -> None:  # noqa: ARG001
    """Without its shapes, every narrow network would be called another one than ResNet-18."""

    def shapes(n_classes: int, state: bool = False) -> resnet18.Shapes:
        network = narrow_stages(n_classes)
        return {
            f"{stage}.{name}": tuple(value.shape)
            for stage, module in network.items()
            for name, value in (module.state_dict().items() if state else module.named_parameters())
        }

    for module in (resnet18, checkpoints):
        monkeypatch.setattr(module, "parameter_shapes", shapes)
        monkeypatch.setattr(module, "state_shapes", lambda n_classes: shapes(n_classes, state=True))


def called_forged(folder: Path) -> list[str]:
    """What the grader holds against a run: integrity properties that fail, with their reasons."""
    found = grade(Job(folder, "run", load_policy("default")))
    assert not found.problems, found.problems
    if any(run["epochs"] for run in results_of(folder)["runs"]):
        assert found.findings["commitments-chain"].status is Status.HOLDS
    return [
        f"{name}: {finding.summary} {finding.details}"
        for name, finding in found.findings.items()
        if finding.status is Status.FAILS and PROPERTIES[name].is_integrity
    ]


def needs_bf16(precision: str) -> None:
    if precision == "bf16" and not torch.cpu._is_avx512_bf16_supported():
        pytest.skip("needs a CPU with AVX-512 BF16")


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_run(kind: str, experiment: Run, tmp_path: Path) -> None:
    needs_bf16(KINDS[kind].get("precision", "fp32"))
    experiment(tmp_path / "run", **KINDS[kind])
    assert called_forged(tmp_path / "run") == []


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Two classes of photos with the names that people give, and one that cannot be read."""
    classes = {"Ants & bees, “old”": 24, "-x=1 é\u0301 (2)": 30}
    root = image_tree(tmp_path / "my photos, 2nd set", classes)
    for folder in classes:
        for number, name in enumerate((" a,b.png", 'q"uote.png', "it's 100%.JPG", "ñandú;.jpeg", "#1.png")):
            photo(root / folder / name, 1000 + number + 10 * len(folder))
    next(iter(root.iterdir())).joinpath("bad.png").write_bytes(b"no image")
    return root


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_odd_names_of_two_classes(experiment: Run, odd: Path, tmp_path: Path, precision: str) -> None:
    needs_bf16(precision)
    options = {"subset": None, "on_bad_image": "skip", "precision": precision, "image_size": 32, "seeds": 2}
    record = experiment(tmp_path / "run", dataset=f"imagefolder:{odd}", variants=(A, C), **options)
    assert [entry["sample_id"].endswith("bad.png") for entry in record["dataset"]["excluded"]] == [True]
    assert called_forged(tmp_path / "run") == []


def test_weights_of_an_earlier_run(experiment: Run, tmp_path: Path) -> None:
    """It begins with a head that knows the classes, and hardly moves: B and C stay alike."""
    experiment(tmp_path / "first", subset=10, epochs=4, variants=(B,))
    experiment(
        tmp_path / "run", subset=10, weights=str(tmp_path / "first"), lr=1e-6, variants=(B, C), seeds=2
    )
    assert called_forged(tmp_path / "run") == []


def test_stopped_and_resumed(experiment: Run, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        experiment(tmp_path / "run", variants=(A, C), stop=StopAt(13))
    experiment(tmp_path / "run", variants=(A, C), resume=True)
    assert called_forged(tmp_path / "run") == []


def test_merged(experiment: Run, tmp_path: Path) -> None:
    for name, variants in (("a", (A,)), ("c", (C, replace(B, lr=1e30)))):
        experiment(tmp_path / name, variants=variants, seeds=2)
    merge_runs([tmp_path / "a", tmp_path / "c"], tmp_path / "out", RecordingReporter())
    assert len(results_of(tmp_path / "out")["runs"]) == 6
    assert called_forged(tmp_path / "out") == []
