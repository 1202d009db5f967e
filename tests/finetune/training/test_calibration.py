"""Temperature scaling."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional

from finetune.training.calibration import fit_temperature
from grader.statistics.calibration import TEMPERATURES


def drawn(
    n: int, n_classes: int, temperature: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Logits, and labels drawn from softmax(logits / temperature)."""
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 4, (n, n_classes)).astype(np.float32)
    gumbel = rng.gumbel(size=logits.shape)
    return logits, (logits / temperature + gumbel).argmax(axis=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_finds_the_temperature_that_labels_were_drawn_with(temperature: float) -> None:
    assert fit_temperature(*drawn(20_000, 6, temperature)) == pytest.approx(temperature, rel=0.03)


def test_no_other_temperature_is_more_likely() -> None:
    logits, labels = drawn(300, 4, 1.7)
    best = fit_temperature(logits, labels)

    def nll(temperature: float) -> float:
        scaled = torch.from_numpy(logits).double() / temperature
        return float(functional.cross_entropy(scaled, torch.from_numpy(labels)))

    assert nll(best) < min(nll(best * 1.001), nll(best / 1.001))


def test_large_logits_do_not_overflow() -> None:
    logits, labels = drawn(500, 4, 2.0)
    assert fit_temperature(logits * 1000 + 5e4, labels) == TEMPERATURES[1]


def test_networks_that_are_always_right_or_know_nothing_stay_within_the_limits() -> None:
    logits, _ = drawn(50, 3, 1.0)
    assert fit_temperature(logits, logits.argmax(axis=1)) == TEMPERATURES[0]
    assert fit_temperature(logits, logits.argmin(axis=1)) == TEMPERATURES[1]


def test_a_run_records_what_its_files_say(photos_run: tuple[Path, Path]) -> None:
    run, _ = photos_run
    for entry in json.loads((run / "results.json").read_text())["runs"]:
        found = entry["calibration"]
        assert TEMPERATURES[0] <= found["temperature"] <= TEMPERATURES[1]
        rows = [
            line.split(",")
            for line in (run / entry["artifacts"]["test_predictions"]["path"]).read_text().splitlines()[1:]
        ]
        confidence = np.array([float(row[4]) for row in rows])
        correct = np.array([row[1] == row[2] for row in rows])
        gaps = [
            abs((confidence - correct)[(confidence > m / 15) & (confidence <= (m + 1) / 15)].sum())
            for m in range(15)
        ]
        assert found["ece_test"] == pytest.approx(sum(gaps) / len(rows))
