"""Several runs side by side."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from finetune.cli.options import OPTIONS
from finetune.report.comparison import PARTS, comparison_context, differing
from finetune.report.judged import JudgedRun, judged
from finetune.report.page import page
from finetune.report.settings import REPEATED, SETTINGS
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
        (("C: trains", ""), ["layer4, fc", "fc"]),
        (("epochs", "--epochs"), ["4", "2"]),
        (("peak learning rate", "--lr"), ["0.02", "0.5"]),
    ]
    assert differing([runs[0], runs[0]]) == []


def test_in_words_and_with_the_values_of_the_page(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        config = document["config"]
        config["recipe"]["lr"], config["tune"], config["subset"] = 10**-1.5, None, 20
        document["config"]["variants"].append(config["variants"][0] | {"name": "A3"})
        document["dataset"]["splits"]["train"]["fingerprint"] = "f" * 64
        document["dataset"]["splits"]["train"]["n_samples"] = 12345
        document["environment"]["device_name"] = "Another processor"

    first = simulated_run(tmp_path / "first")
    found = judged([first, edit_results(simulated_run(tmp_path / "second"), change)])
    rows = dict(differing(found))
    assert rows["variants", "--variants"] == ["A, B, C", "A, B, C, A3"]  # and no line for each setting of A3
    assert rows["peak learning rate", "--lr"] == ["0.02", "0.0316"]
    assert rows["images per class in each split, at most", "--subset"] == ["all", "20"]
    assert rows["training images", ""][1] == "12,345"
    assert rows["fingerprint of the training images", ""][1] == "f" * 16
    assert rows["processor or GPU", ""][1] == "Another processor"
    text = page(found)
    assert "<code>--subset</code>" in text
    assert "A3" in text
    assert not re.search(r"recipe, lr|config[.]|n[_ ]samples|device[_ ]name", text)


def test_rates_that_differ_in_the_fourth_digit_are_shown_to_differ(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["config"]["recipe"]["lr"] = 0.020001

    runs = [simulated_run(tmp_path / "first"), edit_results(simulated_run(tmp_path / "second"), change)]
    assert differing(judged(runs)) == [(("peak learning rate", "--lr"), ["0.02", "0.020001"])]


def test_rates_that_trials_chose_are_shown_where_they_differ(tmp_path: Path) -> None:
    found = judged([simulated_run(tmp_path / name) for name in ("first", "second")])
    chosen = replace(found[1].results.runs[0], learning_rate=0.1)
    results = replace(found[1].results, runs=(chosen, *found[1].results.runs[1:]))
    evidence = replace(found[1].evidence, results=results)
    tuned = replace(found[1], evidence=evidence, document={**found[1].document, "tuning": {"trials": []}})
    assert differing([found[0], tuned]) == [(("peak learning rate of A", ""), ["0.02", "0.1"])]


def test_every_setting_of_the_results_has_words() -> None:
    """Of a new field, words must be found, or it must be left out."""
    schema = json.loads((resources.files("grader") / "results.schema.json").read_text("utf-8"))

    def paths(part: dict[str, Any], path: str) -> Iterator[str]:
        part = part | schema["$defs"].get(part.get("$ref", "").rpartition("/")[2], {})
        options = (part, *part.get("anyOf", ()), *part.get("oneOf", ()))
        below = {key: value for option in options for key, value in option.get("properties", {}).items()}
        for key, value in below.items():
            yield from paths(value, f"{path}.{key}")
        if not below:
            yield path

    found = [p for part in PARTS for p in paths(schema["properties"][part], part)]
    assert "config.recipe.lr" in found
    known = {*SETTINGS, *REPEATED, "config.variants"}
    unknown = [path for path in found if path not in known and not path.startswith(REPEATED)]
    assert unknown == []
    options = {f"--{name.replace('_', '-')}" for name in OPTIONS} | {"--parallel"}
    for setting in SETTINGS.values():
        assert {word for word in setting.option.replace(",", "").split() if word[:2] == "--"} <= options


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
