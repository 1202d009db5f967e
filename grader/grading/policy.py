"""Which properties count, with which thresholds and points; `policy.schema.json` describes the file."""

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from grader.checks import PROPERTIES
from grader.errors import UsageError, did_you_mean, listed
from grader.evidence.gathered import Thresholds
from grader.reading.files import read_bytes
from grader.reading.schema import load_schema, validator_for, violations
from grader.reading.strict_json import short

MAX_BYTES = 256 * 1024
BUNDLED = ("default", "homework", "homework-no-checkpoints", "strict")


@dataclass(frozen=True)
class Weight:
    """What a counted property is worth.

    Attributes:
        points: Points if it holds.
        partial: Whether a failed property earns the share of its items (runs, files, pairs) that hold.
    """

    points: float = 1.0
    partial: bool = False


@dataclass(frozen=True)
class Policy:
    """A set of grading rules.

    Attributes:
        name: Its name.
        version: Raised whenever a grade could change.
        description: One sentence.
        required_level: Level of evidence required to pass.
        inconclusive_passes: Whether a counted property that is inconclusive passes.
        not_checked_passes: Whether a counted property that was not checked passes.
        thresholds: Numbers that the checks use, and what is required of the experiment.
        inconclusive_credit: Share of its points that an inconclusive property earns.
        not_checked_credit: Share of its points that a property that was not checked earns.
        weights: The counted properties, in order.
        sha256: Digest of the policy file.
    """

    name: str
    version: int
    description: str
    required_level: int
    inconclusive_passes: bool
    not_checked_passes: bool
    thresholds: Thresholds
    inconclusive_credit: float
    not_checked_credit: float
    weights: Mapping[str, Weight]
    sha256: str = field(default="", compare=False)


def load_policy(name_or_path: str) -> Policy:
    """Read a bundled policy by name, or a policy file.

    Raises:
        UsageError: It does not exist or is invalid; the message says what is valid.
    """
    if name_or_path in BUNDLED:
        text = resources.files("grader").joinpath("policies", f"{name_or_path}.toml").read_text("utf-8")
    elif not Path(name_or_path).exists():
        raise UsageError(
            f"Policy not found: {short(name_or_path)}; give a file or one of {', '.join(BUNDLED)}."
            + did_you_mean(name_or_path, BUNDLED)
        )
    else:
        try:
            text = read_bytes(Path(name_or_path), name_or_path, MAX_BYTES, follow=True).decode("utf-8")
        except ValueError as error:
            raise UsageError(f"--policy: {error}") from error
    return parse_policy(text, name_or_path)


def parse_policy(text: str, shown: str) -> Policy:
    """Build a policy from TOML.

    Args:
        text: The TOML document.
        shown: How messages refer to it.

    Raises:
        UsageError: It is invalid; lists all problems.
    """
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"Policy {shown} is not TOML: {error}.") from error
    schema = load_schema("policy.schema.json")
    schema["properties"]["properties"]["properties"] = {
        name: {"$ref": "#/$defs/weight"} for name in PROPERTIES
    }
    problems = [
        ": ".join(filter(None, (f"Policy {shown}", path.removeprefix("$").removeprefix("."), f"{phrase}.")))
        for path, phrase in violations(document, validator_for(schema))
    ]
    if problems:
        raise UsageError("\n".join(listed(problems)))
    thresholds, credit = document["thresholds"], document["credit"]
    if document.get("require") and "as-required" not in document["properties"]:
        raise UsageError(f"Policy {shown}: [require] needs the property as-required, which is not counted.")
    plain = {key: value for key, value in document.items() if not isinstance(value, dict) and key != "format"}
    return Policy(
        **plain,
        thresholds=Thresholds(
            confidence=thresholds["confidence"],
            margin=thresholds["margin_points"] / 100,
            gap_floor=thresholds["gap_floor_points"] / 100,
            require=document.get("require", {}),
        ),
        inconclusive_credit=credit["inconclusive"],
        not_checked_credit=credit["not_checked"],
        weights={name: Weight(**weight) for name, weight in document["properties"].items()},
        sha256=hashlib.sha256(text.encode()).hexdigest(),
    )
