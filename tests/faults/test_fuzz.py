"""Random damage to everything that finetune reads: an error in words or a result, never a traceback."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import safetensors.torch
import tomli_w
import torch
from hypothesis import HealthCheck, given, settings

from finetune.config.experiment import ExperimentConfig
from finetune.config.presets import load_preset, to_table
from finetune.data.prepare import prepare_images
from finetune.data.split_dataset import split_dataset
from finetune.distributed.world import SingleProcess
from finetune.errors import FinetuneError
from finetune.evidence import reevaluate
from finetune.network.resnet18 import resnet18, state_shapes
from finetune.network.weights import load_weights
from finetune.run import experiment as job
from finetune.run.folder import RunFolder
from finetune.run.prepare import best_checkpoint
from finetune.system.signals import StopRequest
from tests.builders.config import tiny_config
from tests.builders.runs import RecordingReporter

EXAMPLES = int(os.environ.get("FAULTS_EXAMPLES", "40"))
"""Inputs tried by each test; `make soak` tries many more."""

fuzzed = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2**31, 2**63, 10**400]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["", "..", "/", "\0", "x" * 300, "=1+1", "nan", "A", "B"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container in a document with each of its keys."""
    found: list[tuple[Any, Any]] = []
    keys = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(keys):
        found += [(value, key), *places(inner)]
    return found


def mutated(data: st.DataObject, document: Any, values: st.SearchStrategy[Any] = VALUES) -> Any:
    """A copy of a document with a few places changed, removed or doubled."""
    document = copy.deepcopy(document)
    for _ in range(data.draw(st.integers(1, 3))):
        where = places(document)
        container, key = where[data.draw(st.integers(0, len(where) - 1))]
        match data.draw(st.sampled_from(["change", "change", "remove", "double"])):
            case "change":
                container[key] = data.draw(values)
            case "remove":
                del container[key]
            case _ if isinstance(container, list):
                container.append(copy.deepcopy(container[key]))
            case _:
                container[f"{key}2"] = container[key]
    return document


def damaged(data: st.DataObject, content: bytes) -> bytes:
    """A file with a few bytes changed, cut off or put in."""
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(changed) - 1)))
        match data.draw(st.sampled_from(["change", "cut", "insert"])):
            case "change" if changed:
                changed[at] = data.draw(st.integers(0, 255))
            case "cut":
                del changed[at : at + data.draw(st.integers(1, 64))]
            case _:
                changed[at:at] = data.draw(st.binary(max_size=16))
    return bytes(changed)


class TestConfiguration:
    def load(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        try:
            config = load_preset(str(path))
        except FinetuneError:
            return
        assert isinstance(config, ExperimentConfig)
        path.write_bytes(tomli_w.dumps(to_table(config)).encode())
        assert dataclasses.replace(load_preset(str(path)), preset=config.preset) == config

    @fuzzed
    @given(content=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
    def test_random_bytes(self, tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
        self.load(tmp_path_factory.getbasetemp() / "random.toml", content)

    @fuzzed
    @given(data=st.data())
    def test_damaged_bytes(self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
        content = tomli_w.dumps(to_table(tiny_config())).encode()
        self.load(tmp_path_factory.getbasetemp() / "damaged.toml", damaged(data, content))

    @fuzzed
    @given(data=st.data())
    def test_other_values(self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
        table = mutated(data, to_table(tiny_config()), VALUES.filter(lambda v: v is not None))
        try:
            content = tomli_w.dumps(table).encode()
        except (TypeError, ValueError, AttributeError):  # TOML has no word for it
            return
        self.load(tmp_path_factory.getbasetemp() / "values.toml", content)

    @pytest.mark.parametrize("content", ["[" * 10_000, "a=" + "[" * 10_000, "a=" + "{b=" * 10_000])
    def test_deep_nesting(self, tmp_path: Path, content: str) -> None:
        self.load(tmp_path / "deep.toml", content.encode())


@pytest.fixture
def finished(tmp_path: Path, experiment: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run folder that is resumed without decoding anything or writing a report."""
    out = tmp_path / "run"
    experiment(out, epochs=1)
    prepared = job.prepare(load_preset(str(out / "config.toml")), RecordingReporter(), SingleProcess())
    monkeypatch.setattr(
        job,
        "prepare",
        lambda *_: dataclasses.replace(prepared, record=copy.deepcopy(prepared.record)),
    )
    ready = prepare_images(prepared.config, split_dataset(prepared.config), RecordingReporter())
    monkeypatch.setattr(reevaluate, "prepare_images", lambda *_, **__: ready)
    monkeypatch.setattr(job, "write_report", lambda *_: None)
    return out


def resume_and_evaluate(out: Path) -> None:
    """Both commands that read a run folder."""
    config = load_preset(str(out / "config.toml"))
    for work in (
        lambda: job.run_experiment(config, out, RecordingReporter(), StopRequest(), resume=True),
        lambda: reevaluate.evaluate_run(
            out,
            out.parent / "fresh",
            RecordingReporter(),
            dataset=None,
            data_root=None,
            device="cpu",
            threads=1,
        ),
        lambda: load_weights(str(best_checkpoint(RunFolder(out))), state_shapes(10)),
    ):
        with suppress(FinetuneError):
            work()


class TestResults:
    @fuzzed
    @given(data=st.data())
    def test_other_values(self, finished: Path, data: st.DataObject) -> None:
        original = (finished / "results.json").read_bytes()
        record = mutated(data, json.loads(original))
        try:
            (finished / "results.json").write_text(json.dumps(record), encoding="utf-8", errors="replace")
            resume_and_evaluate(finished)
        finally:
            (finished / "results.json").write_bytes(original)

    @fuzzed
    @given(data=st.data())
    def test_damaged_bytes(self, finished: Path, data: st.DataObject) -> None:
        original = (finished / "results.json").read_bytes()
        try:
            (finished / "results.json").write_bytes(damaged(data, original))
            resume_and_evaluate(finished)
        finally:
            (finished / "results.json").write_bytes(original)


class TestWeights:
    @fuzzed
    @pytest.mark.parametrize("suffix", [".pth", ".old.pth", ".safetensors"])
    @given(data=st.data())
    def test_damaged_bytes(self, narrow_weights: Path, suffix: str, data: st.DataObject) -> None:
        state = dict(sorted(safetensors.torch.load(narrow_weights.read_bytes()).items()))
        path = narrow_weights.with_name(f"damaged{suffix}")
        if suffix.endswith(".pth"):
            file = io.BytesIO()
            torch.save(state, file, _use_new_zipfile_serialization=suffix == ".pth")
            content = file.getvalue()
        else:
            content = narrow_weights.read_bytes()
        head = data.draw(st.sampled_from([64, 2000, len(content)]))
        path.write_bytes(damaged(data, content[:head]) + content[head:])
        try:
            weights = load_weights(str(path), state_shapes(10))
        except FinetuneError:
            return
        resnet18(10).load_state_dict(weights.state, strict=False)
