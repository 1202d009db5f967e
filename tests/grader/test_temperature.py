"""A made-up temperature fails by name: by the predictions alone as far as they allow, and by the logits."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grader.checks import judge
from grader.checks.calibrated import temperature_fits
from grader.evidence.gathered import Evidence, Thresholds, gather
from grader.findings import Finding, Level, Status
from grader.grading.grade import Job, grade
from grader.grading.policy import Policy
from grader.isolated.rerun import Rerun
from grader.statistics.calibration import loss_limits
from grader.submission.load import load
from tests.grader.forgeries import Forger
from tests.grader.honest import Size, fitted, write_run

Run = Callable[[int], Path]


@pytest.fixture(scope="module")
def of_classes(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An honest run with so many classes."""
    made: dict[int, Path] = {}

    def make(n_classes: int) -> Path:
        if n_classes not in made:
            folder = tmp_path_factory.mktemp("run") / "run"
            made[n_classes] = write_run(folder, Size(n_classes=n_classes, epochs=2))
        return made[n_classes]

    return make


def judged(run: Path, factor: float, variant: str = "B") -> Finding:
    """The finding if a temperature is multiplied."""
    evidence = gather(load(run), Thresholds())
    runs = []
    for found in evidence.results.runs:
        assert found.calibration is not None
        temperature = found.calibration.temperature * (factor if found.variant == variant else 1)
        runs.append(replace(found, calibration=replace(found.calibration, temperature=temperature)))
    return temperature_fits(replace(evidence, results=replace(evidence.results, runs=tuple(runs))))


@pytest.mark.parametrize("n_classes", [2, 5, 10, 40])
def test_honest_temperatures(of_classes: Run, n_classes: int) -> None:
    found = judged(of_classes(n_classes), 1)
    assert (found.status, found.level) == (Status.HOLDS, Level.PREDICTIONS), found.summary
    assert (found.held, found.judged) == (3, 3)


@pytest.mark.parametrize("variant", ["A", "C"])
@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_with_two_classes_it_is_known_exactly(of_classes: Run, variant: str, factor: float) -> None:
    found = judged(of_classes(2), factor, variant)
    assert found.status is Status.FAILS
    assert found.summary.startswith(f"{variant}-seed0: at the recorded temperature ")
    assert (found.held, found.judged) == (2, 3)


@pytest.mark.parametrize("n_classes", [5, 10, 40])
@pytest.mark.parametrize("factor", [0.05, 4.0])
def test_far_ones_are_impossible(of_classes: Run, n_classes: int, factor: float) -> None:
    assert judged(of_classes(n_classes), factor).status is Status.FAILS


def test_it_fails_every_policy_by_name(of_classes: Run, policy: Policy, tmp_path: Path) -> None:
    forger = Forger(of_classes(10), tmp_path / "run")
    forger.run("B")["calibration"]["temperature"] = 9.5
    forger.save()
    found = grade(Job(forger.folder, "x", policy))
    assert (found.refuted, found.exit_code) == (["temperature-fits"], 1)


def test_version_1_has_none(smoke: Path) -> None:
    assert temperature_fits(gather(load(smoke), Thresholds())).status is Status.NOT_CHECKED


@pytest.mark.parametrize("n_classes", [2, 3, 10])
@pytest.mark.parametrize("temperature", [0.02, 0.5, 1.0, 1.7, 30.0])
def test_limits_contain_the_loss(n_classes: int, temperature: float) -> None:
    rng = np.random.default_rng(n_classes)
    logits = rng.normal(0, 2, (400, n_classes)).astype(np.float32)
    labels = rng.integers(0, n_classes, 400)
    logits[np.arange(400), labels] += 2

    def losses(t: float) -> np.ndarray:
        z = logits.astype(np.float64) / t
        return np.log(np.exp(z - z.max(1, keepdims=True)).sum(1)) + z.max(1) - z[np.arange(400), labels]

    confidence = np.exp(logits.max(1) - np.log(np.exp(logits.astype(np.float64)).sum(1)))
    correct = logits.argmax(1) == labels
    low, high = loss_limits(losses(1), confidence, correct, n_classes, np.array([temperature]))
    true = losses(temperature).mean()
    assert low[0] - 1e-6 <= true <= high[0] + 1e-6
    if n_classes == 2 or temperature == 1:
        assert high[0] - low[0] < 1e-4 * max(1, true)


@pytest.mark.parametrize("loss", ["1e308", "745.2", "0"])
def test_absurd_losses_are_judged_without_a_warning(of_classes: Run, tmp_path: Path, loss: str) -> None:
    forger = Forger(of_classes(5), tmp_path / "run")
    rows = forger.rows("B", "val")
    for row in rows[:3]:
        row[1:] = [row[1], str((int(row[1]) + 1) % 5), loss, "1"]
    header = "sample_id,label,predicted,nll,confidence\n"
    content = header + "".join(",".join(row) + "\n" for row in rows)
    forger.write("B", "val", content.encode())
    forger.doc["runs"][1]["calibration"]["temperature"] = 0.01
    (forger.folder / "results.json").write_text(json.dumps(forger.doc))
    assert temperature_fits(gather(load(forger.folder), Thresholds())).status is Status.FAILS


class TestRecomputed:
    """With the logits at hand."""

    def judged(
        self, run: Path, temperature: float, excess: float = 0.0, ece: float = 0.0, precision: str = "fp32"
    ) -> Finding:
        """If the network's temperature and error are those recorded, but for a factor and a difference."""
        results = replace(load(run).results, precision=precision)
        again = {
            found.name: {
                "calibration": {
                    "temperature": found.calibration.temperature * temperature,
                    "excess": excess,
                    "ece_test_scaled": found.calibration.ece_test_scaled + ece,
                }
            }
            for found in results.runs
            if found.calibration
        }
        return temperature_fits(Evidence(results, rerun=Rerun({}, recomputed=again)))

    def test_agreement(self, of_classes: Run) -> None:
        found = self.judged(of_classes(10), 1.0)
        assert (found.status, found.level) == (Status.HOLDS, Level.CHECKPOINTS)
        assert found.summary == "3 temperatures are recomputed from the logits."

    @pytest.mark.parametrize(
        ("factor", "excess", "status"),
        [(1.015, 1.0, Status.HOLDS), (1.5, 5e-5, Status.HOLDS), (1.03, 2e-4, Status.FAILS)],
    )
    def test_another_temperature(self, of_classes: Run, factor: float, excess: float, status: Status) -> None:
        found = self.judged(of_classes(10), factor, excess)
        assert found.status is status
        assert ("the temperature was recorded as" in found.summary) is (status is Status.FAILS)

    @pytest.mark.parametrize(
        ("ece", "precision", "status"),
        [
            (0.01, "fp32", Status.HOLDS),
            (0.02, "fp32", Status.FAILS),
            (-0.04, "bf16", Status.HOLDS),
            (0.06, "bf16", Status.FAILS),
        ],
    )
    def test_another_error(self, of_classes: Run, ece: float, precision: str, status: Status) -> None:
        found = self.judged(of_classes(10), 1.0, ece=ece, precision=precision)
        assert found.status is status
        assert ("the calibration error on test" in found.summary) is (status is Status.FAILS)

    @pytest.mark.parametrize(("factor", "ece"), [(1.01, 0.0), (1.0, 0.002)])
    def test_bit_identical_predictions_leave_no_room(
        self, of_classes: Run, factor: float, ece: float
    ) -> None:
        evidence = gather(load(of_classes(10)), Thresholds())
        statuses = []
        for by, more in ((1.0, 0.0), (factor, ece)):
            again = {
                run.name: {
                    "calibration": {
                        "temperature": run.calibration.temperature * by,
                        "excess": 1e-9 * (by - 1),
                        "ece_test_scaled": run.calibration.ece_test_scaled + more,
                    }
                }
                for run in evidence.results.runs
                if run.calibration
            }
            rerun = Rerun({"x": ()}, evidence.predictions, recomputed=again)
            statuses.append(temperature_fits(replace(evidence, rerun=rerun)).status)
        assert statuses == [Status.HOLDS, Status.FAILS]

    def test_predictions_that_the_weights_do_not_give_come_first(self, of_classes: Run) -> None:
        evidence = gather(load(of_classes(10)), Thresholds())
        predictions = {
            key: replace(rows, predicted=(rows.predicted + 1) % 10)
            for key, rows in evidence.predictions.items()
        }
        found = judge(replace(evidence, rerun=Rerun({"x": ()}, predictions)))
        assert found["temperature-fits"].summary == "Skipped because rerun-agrees failed."


def test_the_simulated_fit_minimizes_the_loss() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (300, 7)).astype(np.float32)
    labels = rng.integers(0, 7, 300)
    logits[np.arange(300), labels] += 1.5
    best = fitted(logits, labels)

    def loss(t: float) -> float:
        z = logits.astype(np.float64) / t
        return float((np.log(np.exp(z).sum(1)) - z[np.arange(300), labels]).mean())

    assert loss(best) < min(loss(best * 1.01), loss(best / 1.01))
