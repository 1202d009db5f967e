"""How a variant does on each class, and which classes it takes for one another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finetune.report.judged import JudgedRun, VariantRow

Counts = npt.NDArray[np.int64]

FULL = 12
"""Up to so many classes, the confusion matrix is shown whole; of more, the most confused ones."""

MOST_PAIRS = 15
SHADES = 6


@dataclass(frozen=True)
class ClassRow:
    """One class on the test images; ratios are None where their denominator is 0.

    Args:
        label: index of the class.
        n_images: its test images, over all seeds.
        accuracies: share of them that each variant with predictions gets right, its recall.
        precision: share of the favorite's predictions of this class that are right.
        f1: harmonic mean of the favorite's precision and recall (van Rijsbergen 1979).
    """

    label: int
    n_images: int
    accuracies: tuple[float | None, ...]
    precision: float | None
    f1: float | None


@dataclass(frozen=True)
class Cell:
    """A number in the confusion matrix and how dark it is, 0 to `SHADES`."""

    count: int
    shade: int
    is_correct: bool


@dataclass(frozen=True)
class Confusion:
    """Which classes a variant takes for which, over all seeds.

    Args:
        variant: whose predictions they are.
        shown: the classes in the matrix.
        cells: a row for each class shown, a cell for each predicted class shown.
        elsewhere: for each row, predictions of classes that are not shown; empty if all are.
        pairs: (label, predicted, count, share of the label's images), most frequent first.
        n_wrong: all mistakes.
    """

    variant: VariantRow
    shown: tuple[int, ...]
    cells: tuple[tuple[Cell, ...], ...]
    elsewhere: tuple[int, ...]
    pairs: tuple[tuple[int, int, int, float], ...]
    n_wrong: int


def counts(run: JudgedRun, row: VariantRow) -> Counts | None:
    """Test images by class and predicted class, [n_classes x n_classes], over all seeds with predictions."""
    n = len(run.results.classes)
    total = None
    for one in row.runs:
        found = run.evidence.predictions.get((one.name, "test"))
        if found is not None:
            flat = np.bincount(found.labels * n + found.predicted, minlength=n * n)
            total = flat if total is None else total + flat
    return None if total is None else total.reshape(n, n).astype(np.int64)


def class_rows(tables: list[Counts], favorite: Counts) -> list[ClassRow]:
    """Every class, those that the favorite gets wrong most often first.

    Args:
        tables: of the variants, in the order of the columns.
        favorite: the table that the order, precision and F1 are taken from.
    """
    n_images, n_predicted, n_right = favorite.sum(1), favorite.sum(0), favorite.diagonal()
    rows = [
        ClassRow(
            label,
            int(n_images[label]),
            tuple(_ratio(t[label, label], t[label].sum()) for t in tables),
            _ratio(n_right[label], n_predicted[label]),
            _ratio(2 * n_right[label], n_images[label] + n_predicted[label]),
        )
        for label in range(len(favorite))
    ]
    recall = [_ratio(n_right[row.label], row.n_images) for row in rows]
    return sorted(rows, key=lambda r: (_known(recall[r.label]), _known(r.f1), r.label))


def confusion(row: VariantRow, table: Counts) -> Confusion:
    """The confusion matrix, or its most confused part."""
    wrong = table.copy()
    np.fill_diagonal(wrong, 0)
    n_images = table.sum(1)
    order = np.argsort(-wrong, axis=None, kind="stable")[: max(MOST_PAIRS, 4 * FULL)]
    ranked = [(int(i) // len(table), int(i) % len(table)) for i in order if wrong.flat[i] > 0]
    shown = tuple(range(len(table)))
    if len(shown) > FULL:
        shown = tuple(sorted(list(dict.fromkeys(label for pair in ranked for label in pair))[:FULL]))
    part = table[np.ix_(shown, shown)]
    shares = part / np.maximum(1, n_images[list(shown)])[:, None]
    return Confusion(
        row,
        shown,
        tuple(
            tuple(Cell(int(n), _shade(share), i == j) for j, (n, share) in enumerate(zip(*line, strict=True)))
            for i, line in enumerate(zip(part, shares, strict=True))
        ),
        tuple((n_images[list(shown)] - part.sum(1)).tolist()) if len(shown) < len(table) else (),
        tuple((i, j, int(wrong[i, j]), float(wrong[i, j] / n_images[i])) for i, j in ranked[:MOST_PAIRS]),
        int(wrong.sum()),
    )


def _shade(share: float) -> int:
    """Steps by square root, so that rare confusions can be seen."""
    return 0 if share == 0 else max(1, min(SHADES, round(SHADES * float(share) ** 0.5)))


def _ratio(part: np.int64, whole: np.int64 | int) -> float | None:
    return float(part / whole) if whole else None


def _known(ratio: float | None) -> float:
    return 2.0 if ratio is None else ratio
