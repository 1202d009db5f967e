"""The report's section on near-duplicates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finetune.report.contents import run_context
from finetune.report.judged import judged
from finetune.report.near_duplicates import MOST_SHOWN
from finetune.report.page import page
from tests.builders.reports import edit_results, simulated_run

HOSTILE = "train/<script>window.pwned = 1</script>.png"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return simulated_run(tmp_path / "run", images=tmp_path / "images")


def listed(folder: Path, n: int, other: str = HOSTILE) -> Path:
    """The run with its first n test images listed as near-duplicates."""
    evidence = judged([folder])[0].evidence
    ids = next(iter(evidence.predictions[key] for key in evidence.predictions if key[1] == "test")).sample_ids
    pairs = [
        {"sample_id": name, "split": "test", "other_id": other, "other_split": "train", "distance": 7,
         "mirrored": True}
        for name in ids[:n]
    ]  # fmt: skip

    def change(document: dict[str, Any]) -> None:
        document["dataset"]["near_duplicates"] = {
            "max_distance": 36, "n_compared": 99, "n_not_compared": 0, "n_val": 0, "n_test": n, "pairs": pairs
        }  # fmt: skip

    return edit_results(folder, change)


def test_pairs_pictures_and_accuracy(run: Path, tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), "red").save(tmp_path / "images" / "copied.png")
    text = page(judged([listed(run, 3, "copied.png")]))
    section = text[text.index('<section id="near-duplicates"') :]
    section = section[: section.index("</section>")]
    assert '<a href="#near-duplicates">' in text
    assert "3 test and 0 validation images" in " ".join(section.split())
    assert section.count("<img ") == 6
    assert "7 of 255, mirrored" in section
    context = run_context(judged([run])[0])
    assert [row.name for row, _ in context["near_accuracy"]] == [row.name for row in context["run"].rows]
    for _, accuracy in context["near_accuracy"]:
        assert f"{accuracy.rest:.1%}" in section


def test_names_are_text(run: Path) -> None:
    text = page(judged([listed(run, 2)]))
    assert "<script>window" not in text
    assert "&lt;script&gt;window" in text
    assert "Some pictures are missing" in text


def test_at_most_a_dozen_pairs(run: Path) -> None:
    assert page(judged([listed(run, 20)])).count("of 255") == MOST_SHOWN


def test_no_section_where_nothing_was_compared(run: Path) -> None:
    assert "near-duplicates-title" not in page(judged([run]))


def test_none_found(run: Path) -> None:
    text = page(judged([listed(run, 0)]))
    assert "0 test and 0 validation images" in " ".join(text.split())
    assert "The closest pairs" not in text
