"""Figures and page from rounds whose seconds are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import figures, write


def run_of(scale: float, **more: Any) -> dict[str, Any]:
    """What a program reports; C takes half of B's time, and all wait a tenth of theirs."""
    variants = {
        v: {
            "train_seconds": [scale * share] * 3,
            "data_wait_seconds": [scale * share / 10] * 3,
            "evaluation_seconds": [scale] * 3,
            "test_accuracy": 0.5,
        }
        for v, share in {"A": 2.0, "B": 2.0, "C": 1.0}.items()
    }
    seconds = {"whole_seconds": 20 * scale, "decode_seconds": scale, "peak_memory_bytes": 900_000_000}
    return {**seconds, "variants": variants, **more}


ROUND = {"auto": run_of(1.0), "theirs": run_of(3.0), "fp32": run_of(2.0)}


def test_each_precision_is_compared_with_theirs() -> None:
    samples = figures.whole_jobs([ROUND, ROUND], 400_000_000)
    assert samples["whole_auto"] == samples["train_A_auto"] == [3.0, 3.0]
    assert samples["whole_fp32"] == samples["evaluate_C_fp32"] == [1.5, 1.5]
    assert samples["c_over_b_auto"] == samples["c_over_b_theirs"] == [0.5, 0.5]
    assert samples["wait_fp32"] == pytest.approx([0.1, 0.1])
    assert samples["memory_auto"] == [500_000_000] * 2
    assert (samples["decode_cold_seconds"], samples["decode_warm_seconds"]) == ([1, 1], [2, 2])
    assert "tuned" not in samples


def test_a_tuned_job_is_compared_with_theirs_at_one_rate() -> None:
    samples = figures.whole_jobs([ROUND | {"tuned": run_of(2.5)}], 0)
    assert (samples["tuned"], samples["tuned_seconds"]) == ([60 / 50], [50])
    assert samples["tuned_accuracy_C"] == [0.5]


def test_seeds_with_cached_views_are_distinguished() -> None:
    seeds = [run_of(1.5)["variants"], run_of(0.5)["variants"]]
    samples = figures.cached_prefix(
        [{"one": ROUND["auto"], "theirs": ROUND["theirs"], "all": {"seeds": seeds}}]
    )
    assert (samples["train_C_one"], samples["train_C_first"], samples["train_C_second"]) == ([3], [2], [6])


def test_groups_can_be_measured_again_and_the_page_shows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "FILE", tmp_path / "figures.json")
    figures.save("tutorial/flowers", figures.whole_jobs([ROUND], 0), [ROUND], workers=2, probe={"2": 1.0})
    figures.save("step/64", {"ratio": [1.0]})
    figures.save("step/64", {"ratio": [1.25, 1.0, 1.5]})
    known = figures.load()
    assert known["step/64"]["figures"]["ratio"] == {"median": 1.25, "samples": [1.25, 1.0, 1.5]}
    page = write.page(known)
    assert "| NCHW / channels_last | 1.25 (1.00 to 1.50) |" in page
    assert "| whole job: theirs / ours | 3.00 | ≥ 1.5 | not measured | ≥ 1.6 |" in page


def test_a_page_without_figures_says_so() -> None:
    assert "## Against the tutorial\n\nnot measured\n" in write.page({})
