"""Per-class measures and confusions, against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from finetune.report.classes import class_rows, confusion, counts
from finetune.report.judged import JudgedRun, judged
from tests.builders.reports import simulated_run
from tests.grader.honest import Size


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> JudgedRun:
    folder = tmp_path_factory.mktemp("simulated") / "run"
    (found,) = judged([simulated_run(folder, Size(n_classes=30, n_test=300, seeds=(0, 1)))])
    return found


def test_counts_over_the_seeds(run: JudgedRun) -> None:
    row = run.rows[1]
    parts = [run.evidence.predictions[f"B-seed{seed}", "test"] for seed in (0, 1)]
    expected = sum(confusion_matrix(p.labels, p.predicted, labels=range(30)) for p in parts)
    assert (counts(run, row) == expected).all()


def test_measures_of_each_class(run: JudgedRun) -> None:
    tables = [counts(run, row) for row in run.rows]
    assert all(table is not None for table in tables)
    known = [table for table in tables if table is not None]
    parts = [run.evidence.predictions[f"A-seed{seed}", "test"] for seed in (0, 1)]
    labels = np.concatenate([p.labels for p in parts])
    predicted = np.concatenate([p.predicted for p in parts])
    precision, recall, f1, n = precision_recall_fscore_support(
        labels, predicted, labels=range(30), zero_division=np.nan
    )
    rows = class_rows(known, known[0])
    for row in rows:
        assert row.n_images == n[row.label]
        assert row.accuracies[0] == pytest.approx(recall[row.label])
        assert row.f1 == pytest.approx(f1[row.label])
        assert (row.precision is None) == bool(np.isnan(precision[row.label]))
        assert row.precision is None or row.precision == pytest.approx(precision[row.label])
    order = [row.accuracies[0] or 0.0 for row in rows]
    assert order == sorted(order)


def test_a_class_without_images_or_predictions() -> None:
    table = np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])
    rows = class_rows([table], table)
    assert [row.label for row in rows] == [0, 1, 2]
    assert rows[2].accuracies == (None,)
    assert rows[2].precision is None
    assert rows[2].f1 is None


class TestConfusion:
    def test_whole_of_few_classes(self, run: JudgedRun) -> None:
        table = np.array([[8, 2, 0], [1, 9, 0], [0, 4, 6]])
        found = confusion(run.rows[0], table)
        assert [[cell.count for cell in row] for row in found.cells] == table.tolist()
        assert found.elsewhere == ()
        assert found.pairs == ((2, 1, 4, 0.4), (0, 1, 2, 0.2), (1, 0, 1, 0.1))
        assert found.n_wrong == 7
        assert [cell.shade for cell in found.cells[2]] == [0, 4, 5]

    def test_the_most_confused_of_many(self, run: JudgedRun) -> None:
        table = counts(run, run.rows[0])
        assert table is not None
        found = confusion(run.rows[0], table)
        assert len(found.shown) == 12
        for label, row, rest in zip(found.shown, found.cells, found.elsewhere, strict=True):
            assert sum(cell.count for cell in row) + rest == table[label].sum()
        worst = max((int(table[i, j]), -i, -j) for i in range(30) for j in range(30) if i != j)
        assert found.pairs[0][:3] == (-worst[1], -worst[2], worst[0])
        assert {found.pairs[0][0], found.pairs[0][1]} <= set(found.shown)

    def test_no_mistakes(self, run: JudgedRun) -> None:
        found = confusion(run.rows[0], np.diag([5] * 20))
        assert (found.pairs, found.n_wrong) == ((), 0)
