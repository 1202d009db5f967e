import re
from dataclasses import replace
from pathlib import Path

import pytest

from grader.checks import PROPERTIES
from grader.errors import UsageError
from grader.grading.grade import Job, grade
from grader.grading.policy import BUNDLED, Policy, load_policy, parse_policy

GOOD = """
format = 2
name = "mine"
version = 2
description = "Mine."
required_level = 2
inconclusive_passes = true
not_checked_passes = false
[thresholds]
confidence = 0.9
margin_points = 1.5
gap_floor_points = 4
[credit]
inconclusive = 0.25
not_checked = 0
[properties]
best-epoch = { points = 3, partial = true }
roles = {}
"""


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled(name: str) -> None:
    policy = load_policy(name)
    assert policy.name == name
    assert set(policy.weights) <= set(PROPERTIES)


def test_the_homework_is_worth_a_hundred_points() -> None:
    assert sum(weight.points for weight in load_policy("homework").weights.values()) == 100


def test_homework_requires_checkpoints_and_its_twin_differs_in_nothing_else() -> None:
    homework, twin = load_policy("homework"), load_policy("homework-no-checkpoints")
    assert (homework.required_level, twin.required_level) == (4, 2)
    assert replace(homework, name="", version=2, description="", required_level=2) == replace(
        twin, name="", description=""
    )


def test_strict_requires_the_truth_and_conclusive_results() -> None:
    strict = load_policy("strict")
    assert strict.required_level == 3
    assert not strict.inconclusive_passes


def test_what_is_read() -> None:
    policy = parse_policy(GOOD, "mine.toml")
    assert (policy.name, policy.version, policy.required_level) == ("mine", 2, 2)
    assert policy.thresholds.margin == pytest.approx(0.015)
    assert policy.thresholds.gap_floor == pytest.approx(0.04)
    assert policy.weights["best-epoch"].partial
    assert policy.weights["roles"].points == 1


VERSION = "Policy p: version: must be an integer (at least 1), found"
REFUSED = [
    ("version = 2", "version = 2.5", f"{VERSION} 2.5."),
    ("version = 2", "version = true", f"{VERSION} true."),
    ("version = 2", "", "Policy p: 'version' is missing."),
    ("format = 2", "format = 1", "Policy p: format: must be 2, found 1."),
    ('name = "mine"', "name = 3", "Policy p: name: must be a string, found 3."),
    ('name = "mine"', 'name = "\\u001b[31m"', r"Policy p: name: must match ^[\w .-]+$, found"),
    ("not_checked_passes = false", "not_checked_passes = 0", "must be true or false, found 0."),
    (
        "confidence = 0.9",
        "confidence = 1.0",
        "p: thresholds.confidence: must be a number (at least 0.5, at most 0.9999), found 1.0.",
    ),
    (
        "margin_points = 1.5",
        "margin_points = nan",
        "margin_points: must be a number (at least 0, at most 100), found NaN.",
    ),
    ("confidence = 0.9", "confidence = 1979-05-27", 'at most 0.9999), found "1979-05-27".'),
    ("not_checked = 0", "not_checked = 2", "Policy p: credit.not_checked: must be a number (at least 0, at"),
    (
        "gap_floor_points = 4",
        "gap_floor_points = 4\nfloor = 3",
        "unknown key 'floor'; valid keys are confidence, margin_points, gap_floor_points.",
    ),
    (
        "roles = {}",
        "roles = { worth = 3 }",
        "Policy p: properties.roles: unknown key 'worth'; valid keys are points, partial.",
    ),
    (
        "roles = {}",
        "rolls = {}",
        "p: properties: unknown key 'rolls' (did you mean 'roles'?); valid keys are complete, split-counts,",
    ),
    ("roles = {}", "roles = 3", "Policy p: properties.roles: must be an object, found 3."),
    ("[credit]", "[credits]", "Policy p: 'credit' is missing."),
    ("[credit]", "[credit", "Policy p is not TOML:"),
    ("required_level = 2", "required_level = 2\nlevel = 2", "p: unknown key 'level'; valid keys are"),
]


@pytest.mark.parametrize(("old", "new", "message"), REFUSED)
def test_what_is_refused(old: str, new: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        parse_policy(GOOD.replace(old, new), "p")


def test_a_policy_in_which_nothing_counts() -> None:
    text = GOOD.replace("best-epoch = { points = 3, partial = true }", "").replace("roles = {}", "")
    with pytest.raises(UsageError, match="properties: must not be empty"):
        parse_policy(text, "p")


def test_all_problems_are_listed() -> None:
    with pytest.raises(UsageError) as raised:
        parse_policy(GOOD.replace("version = 2", "version = 0").replace("confidence = 0.9", ""), "p")
    assert str(raised.value).splitlines() == [
        "Policy p: version: must be an integer (at least 1), found 0.",
        "Policy p: thresholds: 'confidence' is missing.",
    ]


def test_no_such_policy(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Policy not found: 'lenient'; give a file or one of default, "):
        load_policy("lenient")
    with pytest.raises(UsageError, match="not a regular file"):
        load_policy(str(tmp_path))


@pytest.mark.parametrize("name", PROPERTIES)
def test_every_property_states_rule_and_source(name: str) -> None:
    text = PROPERTIES[name].text
    assert "\nRule: " in text or "\nRule, " in text
    assert "\nSource: " in text
    assert PROPERTIES[name].title


def test_the_guide_lists_every_property() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "grading.md").read_text()
    for name, wanted in PROPERTIES.items():
        assert f"| `{name}` | {int(wanted.level)} | {wanted.title} |" in guide


def test_causes_come_before_consequences() -> None:
    order = list(PROPERTIES)
    for name, wanted in PROPERTIES.items():
        assert all(order.index(cause) < order.index(name) for cause in wanted.depends_on), name


def test_a_subset_is_not_the_whole(smoke: Path, policy: Policy) -> None:
    demanding = replace(policy, thresholds=replace(policy.thresholds, require={"whole": True}))
    finding = grade(Job(smoke, "run", demanding)).findings["as-required"]
    assert finding.summary == "The policy requires all images, but the run has --subset 27."
