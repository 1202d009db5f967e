import re
from pathlib import Path

import pytest

from grader.checks import PROPERTIES
from grader.errors import UsageError
from grader.policy import BUNDLED, load_policy, parse_policy

GOOD = """
format = 1
name = "mine"
version = 2
description = "Mine."
required_level = 2
not_separable_passes = true
not_checked_passes = false
[thresholds]
confidence = 0.9
margin_points = 1.5
gap_floor_points = 4
[worth]
not_separable = 0.25
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


def test_strict_wants_the_truth_and_takes_no_doubt() -> None:
    strict = load_policy("strict")
    assert strict.required_level == 3
    assert not strict.not_separable_passes


def test_what_is_read() -> None:
    policy = parse_policy(GOOD, "mine.toml")
    assert (policy.name, policy.version, policy.required_level) == ("mine", 2, 2)
    assert policy.thresholds.margin == pytest.approx(0.015)
    assert policy.thresholds.gap_floor == pytest.approx(0.04)
    assert policy.weights["best-epoch"].partial
    assert policy.weights["roles"].points == 1


WHOLE = "Policy p: version must be a whole number from 1 to 1e+06, found"
REFUSED = [
    ("version = 2", "version = 2.5", f"{WHOLE} '2.5'."),
    ("version = 2", "", f"{WHOLE} nothing."),
    ("format = 1", "format = 2", "Policy p: format must be a whole number from 1 to 1, found '2'."),
    ('name = "mine"', "name = 3", "Policy p: name must be a line of text, found '3'."),
    ("not_checked_passes = false", "not_checked_passes = 0", "must be true or false, found '0'."),
    ("confidence = 0.9", "confidence = 1.0", "p, [thresholds]: confidence must be a number from 0.5"),
    (
        "margin_points = 1.5",
        "margin_points = nan",
        "margin_points must be a number from 0 to 100, found 'nan'.",
    ),
    ("not_checked = 0", "not_checked = 2", "Policy p, [worth]: not_checked must be a number from 0 to 1"),
    (
        "gap_floor_points = 4",
        "gap_floor_points = 4\nfloor = 3",
        "unknown key 'floor'; the valid ones are confidence, margin_points, gap_floor_points.",
    ),
    (
        "roles = {}",
        "roles = { worth = 3 }",
        "Policy p, [properties], [roles]: unknown key 'worth'; the valid ones are points, partial.",
    ),
    ("roles = {}", "rolls = {}", "p: unknown property 'rolls'; the valid ones are complete, split-counts,"),
    ("roles = {}", "roles = 3", "Policy p, [properties]: roles must be a table, found '3'."),
    ("[worth]", "[worths]", "Policy p: worth must be a table, found nothing."),
    ("[worth]", "[worth", "Policy p is not TOML:"),
    ("required_level = 2", "required_level = 2\nlevel = 2", "p: unknown key 'level'; the valid ones are"),
]


@pytest.mark.parametrize(("old", "new", "message"), REFUSED)
def test_what_is_refused(old: str, new: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        parse_policy(GOOD.replace(old, new), "p")


def test_a_policy_in_which_nothing_counts() -> None:
    text = GOOD.replace("best-epoch = { points = 3, partial = true }", "").replace("roles = {}", "")
    with pytest.raises(UsageError, match="nothing would count"):
        parse_policy(text, "p")


def test_no_such_policy(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"There is no policy 'lenient': give a file, or one of default, "):
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
    guide = (Path(__file__).parents[2] / "docs" / "grading.md").read_text()
    for name, wanted in PROPERTIES.items():
        assert f"| `{name}` | {int(wanted.level)} | {wanted.title} |" in guide


def test_causes_come_before_consequences() -> None:
    order = list(PROPERTIES)
    for name, wanted in PROPERTIES.items():
        assert all(order.index(cause) < order.index(name) for cause in wanted.after), name
