"""The page about GPUs: from nothing, from a dry run's kind of record, and from a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from finetune.config.experiment import ExperimentConfig, Recipe
from finetune.distributed.world import SingleProcess
from finetune.run.prepare import prepare
from finetune.system.console import Reporter
from tests.benchmarks.gpu import page
from tests.benchmarks.gpu.__main__ import Measurement, expected_seconds, settled
from tests.benchmarks.gpu.steps import CASES, evaluation, one_pass, trainer_of
from tests.benchmarks.gpu.trace import kind, summarize

ABOUT = {
    "machine": "a CPU, 16 of 16 cores, 128 GiB",
    "versions": "Python 3.12.3, torch 2.11.0",
    "date": "2030-01-02",
    "commit": "abc",
    "load": 0.5,
    "cuda": "13.0",
    "gpu": "A GPU, 80 GiB",
    "driver": "580.1",
    "device": "cuda",
}


def job(whole: float) -> dict[str, Any]:
    log = {"train_seconds": [2.0, 1.0], "data_wait_seconds": [0.5, 0.5], "evaluation_seconds": [1.0, 1.0]}
    variants = {v: {**log, "test_accuracy": 0.5} for v in "ABC"}
    return {"about": ABOUT, "found": {"whole_seconds": whole, "variants": variants}, "seconds": whole + 1}


def case(rate: float, busy: float | None) -> dict[str, Any]:
    return {
        "images_per_second": [rate, 2 * rate, 3 * rate],
        "evaluated_per_second": [rate],
        "step_us": 100.0,
        "busy": busy,
        "kinds": {"convolutions": 60.0, "copies": 5.0},
        "kernels": [{"name": "sm90_fprop", "kind": "convolutions", "us": 60.0, "count": 3.0}],
        "launches": 120.0,
        "waits": 0.0,
    }


KNOWN = {
    "ours/0": job(20.0),
    "ours/1": job(40.0),
    "tutorial/0": job(400.0),
    "expert/0": {"about": ABOUT, "unfinished_after_seconds": 500.0, "seconds": 500.0},
    "steps": {
        "about": ABOUT,
        "found": {c: case(1000, 0.5) for c in ("A", "B", "C live")} | {"C cached": case(50_000, 0.25)},
    },
    "check": {"about": ABOUT, "outcomes": {"tests/gpu/a": "passed", "tests/gpu/b": "failed"}},
}


def rows(text: str) -> dict[str, list[str]]:
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in cells}


def test_without_a_gpu_the_page_has_goals_and_no_figures() -> None:
    text = page.page({})
    assert "has not run on a GPU yet" in text
    goals = rows(page.goals({}))
    assert [goal for goal, _ in list(goals.values())[2:]] == [
        *("30 s", "10", "3", "8,000/s", "8,000/s", "20,000/s", "60,000/s", "90%"),
    ]
    assert {measured for _, measured in list(goals.values())[2:]} == {page.NOTHING}
    assert "Not run on a GPU yet." in text


def test_the_committed_page_is_what_the_record_beside_it_says() -> None:
    import json

    record = page.PAGE.with_suffix(".json")
    known = json.loads(record.read_text("utf-8")) if record.is_file() else {}
    assert page.PAGE.read_text("utf-8") == page.page(known)


def test_figures_beside_goals() -> None:
    text = page.page(KNOWN)
    assert "has not run on a GPU yet" not in text
    goals = rows(page.goals(KNOWN))
    whole = "30.0 s (20.0 s to 40.0 s, n = 2)"
    assert goals["A, B and C, 30 epochs, prepared store, start-up included"][1] == whole
    assert goals["the tutorial's loop / ours"][1] == "20.0 (n = 1)"
    assert goals["the expert's loop / ours"][1] == page.NOTHING
    assert goals["C cached, training images"][1] == "100,000/s (50,000/s to 150,000/s, n = 3)"
    assert goals["GPU busy while A, B and C train (live)"][1] == "50% (50% to 50%, n = 3)"
    assert rows(page.jobs(KNOWN))["whole job"] == [whole, "not done after 500 s", "400.0 s (n = 1)"]
    assert "1 passed, 1 failed, 0 skipped" in text
    assert "* failed: `tests/gpu/b`" in text
    assert "A GPU, 80 GiB, driver 580.1, CUDA 13.0; a CPU, 16 of 16 cores" in text


def test_a_dry_run_says_so() -> None:
    assert "A dry run on the CPU" in page.page({"ours/0": {**job(20.0), "about": {**ABOUT, "device": "cpu"}}})
    assert "A dry run" not in page.page(KNOWN)


def event(name: str, ts: float, dur: float, cat: str = "kernel") -> dict[str, Any]:
    return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur}


def test_a_trace_of_two_steps() -> None:
    trace = {
        "traceEvents": [
            {"ph": "M", "name": "process_name"},
            event("aten::conv2d", 0, 100, "cpu_op"),
            event("Optimizer.step#SGD.step", 0, 90, "gpu_user_annotation"),
            event("sm90_xmma_fprop_implicit_gemm", 0, 40),
            event("sm90_xmma_fprop_implicit_gemm", 30, 30),  # overlaps by 10
            event("Memcpy HtoD", 100, 20, "gpu_memcpy"),
            event("cudaLaunchKernel", 0, 3, "cuda_runtime"),
            event("cuLaunchKernelEx", 5, 3, "cuda_driver"),
            event("cudaStreamSynchronize", 8, 3, "cuda_runtime"),
        ]
    }
    found = summarize(trace, 2)
    assert found["gpu_us"] == 40
    assert found["kinds"] == {"convolutions": 35, "copies": 10}
    assert found["kernels"][0] == {
        "name": "sm90_xmma_fprop_implicit_gemm",
        "kind": "convolutions",
        "us": 35,
        "count": 1,
    }
    assert (found["launches"], found["waits"]) == (1, 0.5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("void cudnn::batchnorm_bwtr_nhwc_semiPersist", "batch normalization"),
        ("void at::native::batch_norm_transform_input_channels_last_kernel", "batch normalization"),
        ("sm90_xmma_wgrad_implicit_gemm_indexed_bf16", "convolutions"),
        (
            "void at::native::multi_tensor_apply_kernel<FusedSgdMathFunctor>",
            "optimizer",
        ),
        ("void at::native::max_pool_backward_nhwc", "pooling"),
        ("nvjet_sm90_gemm", "matrix products"),
        ("void at::native::index_elementwise_kernel", "crops: gathering"),
        ("void at::native::vectorized_elementwise_kernel", "elementwise"),
        ("Memset (Device)", "copies"),
    ],
)
def test_kinds_of_kernels(name: str, expected: str) -> None:
    assert kind(name) == expected


def test_what_a_round_may_take() -> None:
    one = Measurement("ours/2", 60, lambda _: None)
    assert expected_seconds(one, {}) == 60
    assert expected_seconds(one, KNOWN) == 41
    assert settled("ours/0", KNOWN)
    assert not settled("ours/2", KNOWN)
    assert not settled("ours/0", {"ours/0": {"failed": "why"}})


@pytest.mark.parametrize(("name", "views"), CASES.values(), ids=CASES)
def test_what_is_profiled_trains(name: str, views: int | None, tmp_path: Path) -> None:
    """On the CPU, a pass of each case takes its steps and evaluates the held-out images."""
    recipe = Recipe(epochs=1, batch_size=8, image_size=32)
    config = ExperimentConfig(
        dataset="digits", data_root=str(tmp_path), subset=2, weights="bundled", device="cpu", recipe=recipe
    )
    trainer = trainer_of(prepare(config, Reporter(Console(quiet=True)), SingleProcess()), name, views)
    assert one_pass(trainer) > 0
    assert trainer.training.steps == trainer.steps_per_epoch == 3
    assert evaluation(trainer) > 0
