"""Write the results.json of a Gradescope autograder."""

import json
from typing import Any

from grader.errors import listed
from grader.findings import Status
from grader.formats.clean import clean_lines
from grader.formats.text import closing
from grader.grading.verdict import Grade


def to_gradescope(grade: Grade) -> str:
    """One test per counted property, with its points, below the verdict.

    Source: "Autograder specifications" in Gradescope's documentation, section "Output format".
    """
    tests: list[dict[str, Any]] = [_test(grade, name) for name in grade.policy.weights]
    if grade.problems:
        for test in tests:
            test["output"] = "Not checked because the submission is unusable."
    output = [closing(grade), *listed(grade.problems), *grade.sentences]
    document = {
        "output": clean_lines(output),
        "output_format": "text",
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "score": grade.score,
        "tests": tests,
    }
    return json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _test(grade: Grade, name: str) -> dict[str, Any]:
    finding = grade.findings.get(name)
    score, most = grade.points(name), grade.policy.weights[name].points
    lines = (finding.summary, *finding.details) if finding else ()
    return {
        "name": name,
        "score": score,
        "max_score": most,
        "status": "passed" if finding and grade.passes(name) else "failed",
        "output": clean_lines(lines) + _why(finding.status if finding else None),
        "visibility": "visible",
    }


def _why(status: Status | None) -> str:
    return f"\n({status})" if status in (Status.INCONCLUSIVE, Status.NOT_CHECKED) else ""
