"""Every finding, word for word, on a real run and on each forgery of it.

`python -m tests.grader.test_findings` rewrites expected_findings.json; review the diff before committing.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from grader.evidence.gathered import Evidence, Thresholds, gather
from grader.findings import Finding
from grader.submission.load import load
from tests.grader.forgeries import FORGERIES, SMOKE, Forgery, evidence_of
from tests.grader.honest import truth_of

EXPECTED = Path(__file__).with_name("expected_findings.json")
JUDGED = [entry for entry in FORGERIES if entry.caught_by != "unusable"]


def as_json(finding: Finding) -> dict[str, Any]:
    return {
        "status": finding.status.value,
        "level": finding.level.name,
        "summary": finding.summary,
        "details": list(finding.details),
        "numbers": dict(finding.numbers),
        "held": finding.held,
        "judged": finding.judged,
    }


def of_forgery(entry: Forgery, folder: Path) -> dict[str, Any]:
    from grader.checks import PROPERTIES

    return as_json(PROPERTIES[entry.caught_by].check(evidence_of(entry, folder)))


def of_honest(with_predictions: bool) -> dict[str, dict[str, Any]]:
    from grader.checks import judge

    submission = load(SMOKE)
    evidence = gather(submission, Thresholds(), truth_of(SMOKE))
    findings = judge(evidence if with_predictions else Evidence(submission.results))
    return {name: as_json(finding) for name, finding in findings.items()}


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(EXPECTED.read_text("utf-8"))
    return document


def agree(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found | {"numbers": {}} == wanted | {"numbers": {}}
    assert found["numbers"] == pytest.approx(wanted["numbers"], rel=1e-6)


@pytest.mark.parametrize("with_predictions", [True, False])
def test_of_the_honest_run(expected: dict[str, Any], with_predictions: bool) -> None:
    found = of_honest(with_predictions)
    wanted = expected["honest" if with_predictions else "honest, file alone"]
    assert list(found) == list(wanted)
    for name, finding in found.items():
        agree(finding, wanted[name])


@pytest.mark.parametrize("entry", JUDGED, ids=lambda entry: f"{entry.caught_by}-{entry.name}")
def test_of_each_forgery(entry: Forgery, expected: dict[str, Any], tmp_path: Path) -> None:
    agree(of_forgery(entry, tmp_path / "run"), expected[entry.name])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        document: dict[str, Any] = {"honest": of_honest(True), "honest, file alone": of_honest(False)}
        document |= {entry.name: of_forgery(entry, Path(folder) / entry.name) for entry in JUDGED}
    EXPECTED.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")
