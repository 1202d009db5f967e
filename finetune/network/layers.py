"""The network's parameters and which variants train them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from finetune.config.experiment import Variant
from grader.submission.resnet18 import count, of_groups, parameter_shapes


def layer_table(variants: Sequence[Variant], n_classes: int) -> Table:
    """One row per parameter: name, shape, count and whether each variant trains it; then the totals.

    Args:
        variants: one column each.
        n_classes: outputs of `fc`.
    """
    shapes = parameter_shapes(n_classes)
    trained = {v.name: of_groups(n_classes, v.groups) for v in variants}
    table = Table("parameter", "shape", "count", *trained)
    table.columns[2].justify = "right"
    for name, shape in shapes.items():
        marks = ["trains" if name in names else "frozen" for names in trained.values()]
        table.add_row(name, " x ".join(map(str, shape)), f"{count({name: shape}):,}", *marks)
    table.add_section()
    totals = (f"{count(found):,}" for found in (shapes, *trained.values()))
    table.add_row("trained in all", "", *totals)
    return table
