"""Lines and a table for people, from the same numbers as the results file."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Any

from rich.table import Table

from finetune.config.experiment import Variant
from finetune.report.judged import to_owner
from finetune.training.record import Epoch
from grader.findings import Status, counted, rate_text
from grader.grading.verdict import Grade
from grader.submission.record import Results


def start_line(run: dict[str, Any], variant: Variant) -> str:
    """The starting weights of a run, the layers it trains, and what sets its variant apart."""
    total = run["n_trained"] + run["n_frozen"]
    return (
        f"{run['variant']} seed {run['seed']}: {run['init']} start; trains "
        f"{', '.join(run['trained_groups'])}: {run['n_trained']:,} of {total:,} parameters; "
        f"learning rate {rate_text(run['learning_rate'])}"
        + (f"; {counted(variant.epochs, 'epoch')}" if variant.epochs else "")
        + (f"; fc from the best epoch of {variant.head}" if variant.head else "")
        + ("; BatchNorm statistics of frozen layers follow the images" if variant.adapts else "")
    )


def epoch_line(name: str, epoch: Epoch, epochs: int) -> str:
    """Loss and accuracy on each split, and the seconds they took."""
    parts = "  ".join(
        f"{label} {metrics.loss:.3f} {metrics.accuracy:6.1%}"
        for label, metrics in (("train", epoch.train), ("val", epoch.val), ("test", epoch.test))
        if metrics is not None
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


def doubt_lines(grade: Grade) -> list[str]:
    """A line for each property that fails or is inconclusive; `grader` says more.

    Near-duplicates of test images are worth a line even where they change little.
    """
    told = list(grade.unsettled)
    near = grade.findings.get("near-duplicates")
    if near is not None and near.numbers.get("n_test") and near not in told:
        told.append(near)
    return [f"{finding.status} {finding.name}: {finding.summary}" for finding in told]


def doubt_summary(grade: Grade, folder: Path) -> str:
    """The same in one line, for those who want no more; empty if all that was checked holds."""
    parts = []
    for status in (Status.FAILS, Status.INCONCLUSIVE):
        names = [finding.name for finding in grade.unsettled if finding.status is status]
        if names:
            parts.append(f"{status}: {', '.join(names)}")
    return f"{'; '.join(parts).capitalize()} (grader {quote(str(folder))} says why)." if parts else ""


def verdict_facts(grade: Grade, results: Results) -> dict[str, Any]:
    """The verdict for programs: its sentences, what does not hold, and the figures of each run."""
    return {
        "sentences": to_owner(grade.verdict),
        "unsettled": [
            {"property": f.name, "status": str(f.status), "summary": f.summary} for f in grade.unsettled
        ],
        "runs": [
            {
                "variant": run.variant,
                "seed": run.seed,
                "status": run.status,
                "n_trained": run.n_trained,
                "best_epoch": run.best_epoch,
                "val_accuracy": run.best.val.accuracy if run.best else None,
                "test_accuracy": run.best.test.accuracy if run.best else None,
                "train_seconds": sum(e.train_seconds for e in run.epochs),
            }
            for run in results.runs
        ],
    }
