"""Several runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune.report.comparison import comparison_context, differing
from finetune.report.judged import JudgedRun, judged
from tests.builders.reports import edit_results, simulated_run
from tests.grader.honest import Size


@pytest.fixture
def runs(tmp_path: Path) -> list[JudgedRun]:
    def change(document: dict[str, Any]) -> None:
        document["config"]["recipe"]["lr"] = 0.5
        document["config"]["variants"][2]["train"] = ["fc"]

    first = simulated_run(tmp_path / "first")
    second = edit_results(simulated_run(tmp_path / "second", Size(epochs=2)), change)
    return judged([first, second])


def test_only_what_differs_is_listed(runs: list[JudgedRun]) -> None:
    assert differing(runs) == [
        ("variants, C, train", ["layer4, fc", "fc"]),
        ("epochs", ["4", "2"]),
        ("peak learning rate", ["0.02", "0.5"]),
    ]
    assert differing([runs[0], runs[0]]) == []


def test_a_panel_for_each_variant_with_a_line_for_each_run(runs: list[JudgedRun]) -> None:
    panels = comparison_context(runs)["panels"]
    assert list(panels) == ["Validation", "Test"]
    for found in panels.values():
        assert len(found) == 3
        assert all(panel.count("<polyline") == 2 for panel in found)


def test_differences_on_the_same_images(runs: list[JudgedRun]) -> None:
    a, b = (run.evidence.predictions["B-seed0", "test"].correct.mean() for run in runs)
    expected = f"B: 2 \N{MINUS SIGN} 1: {100 * (b - a):+.1f}".replace("-", "\N{MINUS SIGN}")
    assert expected in str(comparison_context(runs)["forest"])


def test_other_images_are_not_compared_image_by_image(tmp_path: Path) -> None:
    first = simulated_run(tmp_path / "first")
    second = simulated_run(tmp_path / "second", Size(n_test=200))
    assert comparison_context(judged([first, second]))["forest"] is None


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    found = judged([simulated_run(tmp_path / name / "run") for name in ("x", "y")])
    assert [run.name for run in found] == ["x-run", "y-run"]
