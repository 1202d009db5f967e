"""The network's parameters and which variants train them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from rich.table import Table

from finetune.config.experiment import Variant
from finetune.network.resnet18 import resnet18


def layer_table(variants: Sequence[Variant], n_classes: int) -> Table:
    """One row per parameter: name, shape, count and whether each variant trains it; then the totals.

    Args:
        variants: one column each.
        n_classes: outputs of `fc`.
    """
    with torch.device("meta"):  # allocates nothing
        parameters = dict(resnet18(n_classes).named_parameters())
    trained = {v.name: {n for n in parameters if n.partition(".")[0] in v.groups} for v in variants}
    table = Table("parameter", "shape", "count", *trained)
    table.columns[2].justify = "right"
    for name, parameter in parameters.items():
        shape = " x ".join(str(n) for n in parameter.shape)
        marks = ["trains" if name in names else "frozen" for names in trained.values()]
        table.add_row(name, shape, f"{parameter.numel():,}", *marks)
    table.add_section()
    totals = [f"{sum(parameters[n].numel() for n in names):,}" for names in trained.values()]
    table.add_row("trained in all", "", f"{sum(p.numel() for p in parameters.values()):,}", *totals)
    return table
