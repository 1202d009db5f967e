"""Write a grade as JSON, as described by `grade.schema.json`."""

import json
from typing import Any

from grader.formats.clean import clean
from grader.grading.verdict import Grade

FORMAT_VERSION = "2.0"


def to_json(grade: Grade) -> str:
    """One grade as JSON, with a trailing newline."""
    return json.dumps(as_document(grade), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def as_document(grade: Grade) -> dict[str, Any]:
    """The content of the JSON document."""
    return {
        "format_version": FORMAT_VERSION,
        "run": grade.id,
        "policy": {"name": grade.policy.name, "version": grade.policy.version},
        "usable": not grade.problems,
        "passed": grade.passed,
        "exit_code": grade.exit_code,
        "points": grade.score,
        "max_points": grade.max_score,
        "levels": [int(level) for level in grade.levels],
        "inconclusive_levels": [int(level) for level in grade.unsettled_levels],
        "required_level": grade.policy.required_level,
        "verdict": [clean(sentence) for sentence in grade.sentences],
        "problems": [clean(problem) for problem in grade.problems],
        "findings": [
            {
                "property": name,
                "status": str(finding.status),
                "level": int(finding.level),
                "counts": grade.counts(name),
                "points": grade.points(name) if grade.counts(name) else 0,
                "max_points": grade.policy.weights[name].points if grade.counts(name) else 0,
                "summary": clean(finding.summary),
                "details": [clean(detail) for detail in finding.details],
                "numbers": dict(finding.numbers),
                "held": finding.held,
                "judged": finding.judged,
            }
            for name, finding in grade.findings.items()
        ],
    }
