"""The report's figures of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune.report.figures import comparisons
from finetune.report.judged import judged
from grader.checks.compare import compare
from tests.builders.reports import edit_results, simulated_run
from tests.grader import honest as simulated
from tests.grader.honest import VARIANTS, Size


def test_a_longer_a_is_compared_with_b(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verdict has a sentence about it, so the reader looks for its interval."""
    for name in ("VARIANTS", "SKILL", "EPOCH_SECONDS"):
        table = getattr(simulated, name)
        monkeypatch.setattr(simulated, name, table | {"A3": table["A"]})
    assert "A3" not in VARIANTS
    folder = simulated_run(tmp_path / "run", Size(n_test=600))
    edit_results(folder, lambda document: _config(document)["A3"].update(epochs=12))
    (run,) = judged([folder])
    found = {name: comparison for name, comparison, _ in comparisons(run)}
    assert list(found) == [f"{pair[0]} \N{MINUS SIGN} {pair[1]}" for pair in ("BA", "CA", "CB", ("B", "A3"))]
    as_tested = compare(run.evidence, "B", "A3")
    assert as_tested is not None
    assert found["B \N{MINUS SIGN} A3"].interval == as_tested.corrected != as_tested.interval


def _config(document: dict[str, Any]) -> dict[str, Any]:
    return {variant["name"]: variant for variant in document["config"]["variants"]}
