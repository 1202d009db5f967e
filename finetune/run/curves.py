"""The curves of a run as a Matplotlib figure, for notebooks; the report draws its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune.errors import ConfigError
from finetune.report.settings import SPLITS
from grader.submission.record import Results, Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
"""Told apart with any kind of color vision: Okabe and Ito 2008, "Color universal design"."""

MARKERS = "os^Dv<>"


def curves_figure(results: Results) -> Figure:
    """Accuracy and loss by epoch: a column for each split, a line for each run, the chosen epoch filled.

    Raises:
        ConfigError: Matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # without pyplot, whose state is the caller's
        from matplotlib.ticker import LogFormatter, MaxNLocator, PercentFormatter
    except ImportError as error:
        raise ConfigError(
            "plot_curves needs Matplotlib, which is not installed; pip install matplotlib."
        ) from error
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    figure.suptitle(results.dataset_name)
    axes = figure.subplots(2, len(SPLITS), sharex=True, sharey="row")
    variants = list(dict.fromkeys(run.variant for run in results.runs))
    for run in results.runs:
        _draw(axes, run, variants.index(run.variant))
    for column, name in enumerate(SPLITS.values()):
        axes[0][column].set_title(name)
        axes[1][column].set_xlabel("epoch")
    axes[0][0].set_ylabel("accuracy")
    axes[0][0].yaxis.set_major_formatter(PercentFormatter(1.0))
    axes[0][0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[1][0].set_ylabel("loss (cross-entropy, nats)")
    # Logarithmic: a first epoch from random weights can have a hundred times the last one's loss.
    axes[1][0].set_yscale("log")
    for set_formatter in (axes[1][0].yaxis.set_major_formatter, axes[1][0].yaxis.set_minor_formatter):
        set_formatter(LogFormatter(labelOnlyBase=False))  # "2" rather than "2 x 10^0"
    handles, labels = axes[0][0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    if unique:
        figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=7, frameon=False)
    return figure


def _draw(axes: Any, run: Run, index: int) -> None:
    """Draw one run into all panels; the marker of the chosen epoch is filled, the others are hollow."""
    numbers = [e.epoch for e in run.epochs]
    chosen = [i for i, number in enumerate(numbers) if number == run.best_epoch]
    style = {"color": COLORS[index % len(COLORS)], "marker": MARKERS[index % len(MARKERS)], "linewidth": 1.4}
    for column, split in enumerate(SPLITS):
        metrics = [e.on(split) for e in run.epochs]
        for row, values in enumerate(([m.accuracy for m in metrics], [m.loss for m in metrics])):
            axes[row][column].plot(numbers, values, markerfacecolor="white", label=run.variant, **style)
            axes[row][column].plot(
                [numbers[i] for i in chosen], [values[i] for i in chosen], linestyle="", **style
            )
            axes[row][column].grid(alpha=0.25)
