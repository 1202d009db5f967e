"""Lines, table and curves for people, from the same numbers as the results file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from finetune.system.files import write_atomically
from finetune.training.record import Epoch
from grader.record import Results, Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = {"train": "#7f7f7f", "val": "#1f77b4", "test": "#d62728"}
NAMES = {"train": "train", "val": "validation", "test": "test"}


def start_line(run: dict[str, Any]) -> str:
    """The starting weights of a run and the layers it trains."""
    total = run["n_trained"] + run["n_frozen"]
    return (
        f"{run['variant']} seed {run['seed']}: {run['init']} start; trains "
        f"{', '.join(run['trained_groups'])}: {run['n_trained']:,} of {total:,} parameters; "
        f"learning rate {run['learning_rate']:g}"
    )


def epoch_line(name: str, epoch: Epoch, epochs: int) -> str:
    """Loss and accuracy on the three splits, and the seconds they took."""
    parts = "  ".join(
        f"{label} {metrics.loss:.3f} {metrics.accuracy:6.1%}"
        for label, metrics in (("train", epoch.train), ("val", epoch.val), ("test", epoch.test))
    )
    return (
        f"  {name} {epoch.epoch:>{len(str(epochs))}}/{epochs}  {parts}  "
        f"{epoch.train_seconds:.1f} s + {epoch.evaluation_seconds:.1f} s"
    )


def summary(results: Results) -> Table:
    """A table with a row for each run: what it trained, its accuracies and its times."""
    table = Table("variant", "seed", "trained parameters", "best epoch", "val", "test", "train s", "images/s")
    for column in table.columns[1:]:
        column.justify = "right"
    for run in results.runs:
        cells = [run.variant, str(run.seed), f"{run.n_trained:,}"]
        if run.best is None:
            table.add_row(*cells, "failed")
            continue
        table.add_row(
            *cells,
            f"{run.best_epoch}{'' if run.status == 'completed' else ' (failed)'}",
            f"{run.best.val.accuracy:.1%}",
            f"{run.best.test.accuracy:.1%}",
            f"{sum(e.train_seconds for e in run.epochs):.1f}",
            f"{run.images_per_second:.0f}",
        )
    return table


def curves(results: Results, path: Path) -> None:
    """Write `curves_figure` as a PNG.

    Raises:
        RunFolderError: the picture cannot be written.
    """
    picture = io.BytesIO()
    curves_figure(results).savefig(picture, format="png", dpi=120)
    write_atomically(path, picture.getvalue())


def curves_figure(results: Results) -> Figure:
    """Accuracy and loss by epoch, a column for each variant, the chosen epoch marked."""
    from matplotlib.figure import Figure  # slow to import, needed once
    from matplotlib.ticker import LogLocator, NullFormatter

    variants = list(dict.fromkeys(run.variant for run in results.runs))
    figure = Figure(figsize=(1.5 + 3.6 * len(variants), 6.4), layout="constrained")
    axes = figure.subplots(2, len(variants), sharex=True, sharey="row", squeeze=False)
    for column, variant in enumerate(variants):
        runs = [run for run in results.runs if run.variant == variant]
        for run in runs:
            _draw(axes[0][column], axes[1][column], run)
        title = f"{variant}: {runs[0].init} start,\ntrains {_groups(runs[0])}"
        axes[0][column].set_title(title, fontsize=10)
        axes[1][column].set_xlabel("epoch")
    axes[0][0].set_ylabel("accuracy")
    axes[1][0].set_ylabel("loss (cross-entropy, nats)")
    # Logarithmic: a first epoch from random weights can have a hundred times the last one's loss.
    axes[1][0].set_yscale("log")
    axes[1][0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[1][0].yaxis.set_major_formatter("{x:g}")
    axes[1][0].yaxis.set_minor_formatter(NullFormatter())
    axes[0][0].yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes[0][0].xaxis.get_major_locator().set_params(integer=True)
    handles, labels = axes[0][0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def _draw(accuracy: Any, loss: Any, run: Run) -> None:
    numbers = [e.epoch for e in run.epochs]
    for split, color in COLORS.items():
        metrics = [e.on(split) for e in run.epochs]
        style = {"color": color, "label": NAMES[split], "marker": ".", "linewidth": 1.4, "alpha": 0.85}
        accuracy.plot(numbers, [m.accuracy for m in metrics], **style)
        loss.plot(numbers, [m.loss_sum / m.n_samples for m in metrics], **style)
    if run.best_epoch is not None:
        for axis in (accuracy, loss):
            axis.axvline(run.best_epoch, color="black", linestyle=":", linewidth=1, label="chosen epoch")
            axis.grid(alpha=0.25)


def _groups(run: Run) -> str:
    return "every layer" if run.n_frozen == 0 else ", ".join(run.trained_groups)
