"""The list of parameters and who trains them."""

from __future__ import annotations

import io

from rich.console import Console

from finetune.config.experiment import STANDARD_VARIANTS, Variant
from finetune.network.layers import layer_table
from finetune.system.console import Reporter


def lines(variants: tuple[Variant, ...], n_classes: int = 102) -> list[list[str]]:
    text = io.StringIO()
    Reporter(Console(file=text, width=60)).table(layer_table(variants, n_classes))
    rows = [line.replace("┃", "│").strip("│").split("│") for line in text.getvalue().splitlines()]
    return [[cell.strip() for cell in row] for row in rows if len(row) == 3 + len(variants)]


def test_totals() -> None:
    assert lines(STANDARD_VARIANTS)[-1][2:] == ["11,228,838", "11,228,838", "11,228,838", "8,446,054"]
    assert lines(STANDARD_VARIANTS, 10)[-1][2:] == ["11,181,642", "11,181,642", "11,181,642", "8,398,858"]


def test_every_parameter_once() -> None:
    header, *rows, _ = lines(STANDARD_VARIANTS)
    assert header == ["parameter", "shape", "count", "A", "B", "C"]
    assert len(rows) == 62
    assert rows[0] == ["conv1.weight", "64 x 3 x 7 x 7", "9,408", "trains", "trains", "frozen"]
    assert rows[-1] == ["fc.bias", "102", "102", "trains", "trains", "trains"]
    assert sum(int(row[2].replace(",", "")) for row in rows) == 11_228_838


def test_a_custom_variant() -> None:
    rows = lines((Variant(name="M", init="random", train=("conv1", "fc")),), 2)[1:]
    assert [row[0] for row in rows if row[3] == "trains"] == ["conv1.weight", "fc.weight", "fc.bias"]
    assert rows[-1][3] == f"{9408 + 1026:,}"
