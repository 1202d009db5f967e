"""The figure of accuracy and training time against depth."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from finetune.report.depth import depth, ladder_rows, sufficient
from finetune.report.judged import judged
from finetune.report.page import write_report
from tests.grader import honest as simulated
from tests.grader.honest import Size, write_run

LADDER = {
    "C": ("pretrained", ["layer4", "fc"]),
    "fc": ("pretrained", ["fc"]),
    "layer3-and-everything-above-it": ("pretrained", ["layer3", "layer4", "fc"]),
    "B": ("pretrained", "all"),
}
ORDER = ["fc", "C", "layer3-and-everything-above-it", "B"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """C is as good as every row, and fc is not."""
    monkeypatch.setattr(simulated, "VARIANTS", LADDER)
    monkeypatch.setattr(simulated, "SKILL", dict.fromkeys(LADDER, 6.5) | {"fc": 2.0})
    monkeypatch.setattr(simulated, "EPOCH_SECONDS", dict(zip(ORDER, (1.0, 1.5, 2.0, 3.0), strict=True)))
    return write_run(tmp_path / "run", Size(n_test=6000, seeds=(0,)))


def test_rows_go_from_the_fewest_layers_to_all(run: Path) -> None:
    (found,) = judged([run])
    rows = ladder_rows(found)
    assert [row.name for row in rows] == ORDER
    accuracy, seconds = depth(found, rows)
    for panel in (accuracy, seconds):
        heights = [
            float(y) for y in re.findall(r'class="mark [^"]*"[^>]*translate\([\d.]+,([\d.]+)\)', panel)
        ]
        assert heights == sorted(heights)
        assert len(heights) == len(rows)
    assert accuracy.count('class="bar ') == len(rows)  # the intervals
    assert f"fc {rows[0].accuracy('test'):.1%}, C {rows[1].accuracy('test'):.1%}" in accuracy
    places = [float(x) for x in re.findall(r'class="mark [^"]*"[^>]*translate\(([\d.]+),', seconds)]
    assert places == sorted(places)  # the more layers, the longer


def test_a_head_is_said_to_come_from_another_variant(run: Path) -> None:
    (found,) = judged([run])
    row = ladder_rows(found)[-1]
    row = dataclasses.replace(row, config=dataclasses.replace(row.config, head="fc"))
    assert row.starts_from == "pretrained and variant fc's fc"


def test_the_smallest_sufficient_row_is_marked(run: Path) -> None:
    (found,) = judged([run])
    accuracy, seconds = depth(found, ladder_rows(found))
    assert sufficient(found) == "C"
    assert ">C suffices<" in accuracy
    assert accuracy.count('class="ring ') == 1
    assert "suffices" not in seconds


def test_the_page_has_it_where_there_is_a_ladder(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(judged([run]), tmp_path / "depth.html")
    page = (tmp_path / "depth.html").read_text("utf-8")
    assert '<section id="depth"' in page
    assert '<a href="#depth">' in page
    assert "C suffices: of fc, C" in page
    monkeypatch.undo()
    write_report(judged([write_run(tmp_path / "plain")]), tmp_path / "plain.html")
    assert 'id="depth"' not in (tmp_path / "plain.html").read_text("utf-8")
