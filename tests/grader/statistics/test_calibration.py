"""Expected calibration error."""

import numpy as np
import pytest

from grader.statistics.calibration import expected_calibration_error


def test_a_worked_example() -> None:
    # Two bins of two: 0.9 and 0.9 of which one is right, 0.4 and 0.35 of which none is.
    confidence, correct = np.array([0.9, 0.9, 0.4, 0.35]), np.array([True, False, False, False])
    assert expected_calibration_error(confidence, correct, 2) == pytest.approx(0.5 * 0.4 + 0.5 * 0.375)


def test_confidence_that_is_met_has_none() -> None:
    correct = np.array([True] * 8 + [False] * 2)
    assert expected_calibration_error(np.full(10, 0.8), correct) == pytest.approx(0)


@pytest.mark.parametrize(("confidence", "n_bins"), [(0.5, 2), (1 / 15, 15), (1.0, 15)])
def test_a_bin_contains_its_upper_end(confidence: float, n_bins: int) -> None:
    # Were the two in one bin, errors of opposite sign would cancel.
    found = expected_calibration_error(
        np.array([confidence, np.nextafter(confidence, 2)]), np.array([True, False]), n_bins
    )
    apart = (1 - confidence + confidence) / 2
    together = abs(2 * confidence - 1) / 2
    assert found == pytest.approx(together if confidence == 1.0 else apart)
