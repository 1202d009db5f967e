"""Predictions as text."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from finetune.inference.listing import lines, printable
from finetune.inference.predict import Prediction

EVIL = "a\x1b[31m\n\x7f\u202ed.jpg"
FOUND = [
    Prediction(Path("x/1.jpg"), (("cat", 0.75), ("dog", 0.25))),
    Prediction(Path("x/2.jpg"), (), "not an image"),
    Prediction(Path(EVIL), (("=1+1", 0.5), ("a,b", 0.25))),
]


def test_the_table_aligns_and_names_each_file_once() -> None:
    assert list(lines(FOUND[:2], "table")) == [
        f" 75.0%  {'cat':<24}  x/1.jpg",
        " 25.0%  dog",
    ]


def test_json_has_a_line_for_each_file_and_keeps_names() -> None:
    rows = [json.loads(line) for line in lines(FOUND, "json")]
    assert rows[0] == {
        "path": "x/1.jpg",
        "classes": [{"class": "cat", "probability": 0.75}, {"class": "dog", "probability": 0.25}],
    }
    assert rows[1] == {"path": "x/2.jpg", "problem": "not an image"}
    assert rows[2]["path"] == EVIL


def test_csv_has_a_row_for_each_class_and_no_formula() -> None:
    header, *rows = csv.reader(lines(FOUND, "csv"))
    assert header == ["path", "rank", "class", "probability"]
    assert rows[0] == ["x/1.jpg", "1", "cat", "0.750000"]
    assert [row[2] for row in rows[2:]] == ["'=1+1", "a,b"]


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_no_name_controls_a_terminal(form: str) -> None:
    text = "".join(lines(FOUND, form))
    assert not {"\x1b", "\n", "\u202e"} & set(text)
    assert form == "json" or "\x7f" not in text


def test_names_that_are_not_utf8_are_shown() -> None:
    assert printable("caf\udce9 é") == "caf\\udce9 é"
