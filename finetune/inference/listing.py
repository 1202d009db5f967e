"""Predictions as text: a table for people, JSON Lines and CSV for programs, written as they come."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator

from finetune.inference.predict import Prediction
from finetune.system.console import printable

CLASS_WIDTH = 24
"""Characters of a class in the table; a longer name pushes its row's path to the right."""

_FORMULA = re.compile(r"[=@+-]")


def lines(predictions: Iterable[Prediction], form: str) -> Iterator[str]:
    """The lines of a listing, without line ends.

    Args:
        predictions: of files; those that cannot be read appear in JSON only.
        form: `table` and `csv` have a row for each file and class; `json` has an object for each file.
    """
    header, rows = _WRITERS[form]
    yield from header
    for prediction in predictions:
        yield from rows(prediction)


def _table(prediction: Prediction) -> Iterator[str]:
    path = printable(str(prediction.path))
    for name, probability in prediction.classes:
        yield f"{probability:6.1%}  {printable(name):<{CLASS_WIDTH}}  {path}".rstrip()
        path = ""


def _json(prediction: Prediction) -> Iterator[str]:
    found: dict[str, object] = {"path": str(prediction.path)}
    if prediction.problem is None:
        found["classes"] = [{"class": name, "probability": p} for name, p in prediction.classes]
    else:
        found["problem"] = prediction.problem
    yield json.dumps(found)


def _csv(prediction: Prediction) -> Iterator[str]:
    for rank, (name, probability) in enumerate(prediction.classes, 1):
        text = io.StringIO(newline="")
        cells = _cell(str(prediction.path)), rank, _cell(name), f"{probability:.6f}"
        csv.writer(text, lineterminator="").writerow(cells)
        yield text.getvalue()


def _cell(text: str) -> str:
    """A name that a spreadsheet takes for text, not for a formula."""
    text = printable(text)
    return f"'{text}" if _FORMULA.match(text) else text


_WRITERS: dict[str, tuple[list[str], Callable[[Prediction], Iterator[str]]]] = {
    "table": ([], _table),
    "json": ([], _json),
    "csv": (["path,rank,class,probability"], _csv),
}
