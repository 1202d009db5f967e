"""Which properties count, with which thresholds and points: a TOML file of a fixed vocabulary."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from grader.checks import PROPERTIES
from grader.errors import UsageError
from grader.evidence import Thresholds
from grader.files import read_bytes
from grader.jsonfile import short

FORMAT = 1
MAX_BYTES = 256 * 1024
BUNDLED = ("default", "homework", "strict")


@dataclass(frozen=True)
class Weight:
    """What a counting property is worth.

    Attributes:
        points: Points when it holds.
        partial: Whether a failed property earns the share of its items that hold (runs, files, pairs).
    """

    points: float = 1.0
    partial: bool = False


@dataclass(frozen=True)
class Policy:
    """A rule set.

    Attributes:
        name: Its name.
        version: Its version; raised when a grade could change.
        description: One sentence.
        required_level: Evidence that must be reached.
        not_separable_passes: Whether a counting property that is not separable passes.
        not_checked_passes: Whether a counting property without evidence passes.
        thresholds: Numbers that checks use.
        not_separable_worth: Share of the points of a property that is not separable.
        not_checked_worth: Share of the points of a property that was not checked.
        weights: The counting properties, in order.
    """

    name: str
    version: int
    description: str
    required_level: int
    not_separable_passes: bool
    not_checked_passes: bool
    thresholds: Thresholds
    not_separable_worth: float
    not_checked_worth: float
    weights: Mapping[str, Weight]


def load_policy(name_or_path: str) -> Policy:
    """Read a bundled policy by name, or a policy file.

    Raises:
        UsageError: It is not there or breaks the vocabulary; the message lists what is valid.
    """
    if name_or_path in BUNDLED:
        text = resources.files("grader").joinpath("policies", f"{name_or_path}.toml").read_text("utf-8")
    elif not Path(name_or_path).exists():
        raise UsageError(
            f"There is no policy {short(name_or_path)}: give a file, or one of {', '.join(BUNDLED)}."
        )
    else:
        try:
            text = read_bytes(Path(name_or_path), name_or_path, MAX_BYTES, follow=True).decode("utf-8")
        except ValueError as error:
            raise UsageError(f"The policy cannot be read: {error}") from error
    return parse_policy(text, name_or_path)


def parse_policy(text: str, shown: str) -> Policy:
    """Build a policy from TOML.

    Args:
        text: The TOML document.
        shown: How messages name it.

    Raises:
        UsageError: It breaks the vocabulary.
    """
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"Policy {shown} is not TOML: {error}.") from error
    table = _Table(document, shown)
    if table.number("format", FORMAT, FORMAT, whole=True) != FORMAT:
        raise UsageError(f"Policy {shown}: format must be {FORMAT}.")  # pragma: no cover - the range says so
    thresholds, worth = table.table("thresholds"), table.table("worth")
    policy = Policy(
        name=table.text("name"),
        version=int(table.number("version", 1, 10**6, whole=True)),
        description=table.text("description"),
        required_level=int(table.number("required_level", 1, 4, whole=True)),
        not_separable_passes=table.flag("not_separable_passes"),
        not_checked_passes=table.flag("not_checked_passes"),
        thresholds=Thresholds(
            confidence=thresholds.number("confidence", 0.5, 0.9999),
            margin=thresholds.number("margin_points", 0, 100) / 100,
            gap_floor=thresholds.number("gap_floor_points", 0, 100) / 100,
        ),
        not_separable_worth=worth.number("not_separable", 0, 1),
        not_checked_worth=worth.number("not_checked", 0, 1),
        weights=_weights(table.table("properties"), shown),
    )
    for used in (table, thresholds, worth):
        used.refuse_unknown()
    return policy


def _weights(table: "_Table", shown: str) -> dict[str, Weight]:
    unknown = [name for name in table.found if name not in PROPERTIES]
    if unknown:
        valid = ", ".join(PROPERTIES)
        raise UsageError(f"Policy {shown}: unknown property {short(unknown[0])}; the valid ones are {valid}.")
    weights: dict[str, Weight] = {}
    for name in table.found:
        entry = table.table(name)
        weights[name] = Weight(
            entry.number("points", 0, 10**6, default=1.0), entry.flag("partial", default=False)
        )
        entry.refuse_unknown()
    if not weights:
        raise UsageError(f"Policy {shown}: [properties] lists none, so nothing would count.")
    return weights


class _Table:
    """A TOML table whose keys are taken one by one, so that what is left over is unknown."""

    def __init__(self, found: dict[str, Any], shown: str) -> None:
        self.found, self.shown, self.known = found, shown, list[str]()

    def table(self, key: str) -> "_Table":
        value = self._take(key, None)
        if not isinstance(value, dict):
            raise self._wrong(key, "be a table", value)
        return _Table(value, f"{self.shown}, [{key}]")

    def text(self, key: str) -> str:
        value = self._take(key, None)
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise self._wrong(key, "be a line of text", value)
        return value

    def flag(self, key: str, default: bool | None = None) -> bool:
        value = self._take(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, "be true or false", value)
        return value

    def number(
        self, key: str, least: float, most: float, whole: bool = False, default: float | None = None
    ) -> float:
        value = self._take(key, default)
        kinds = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
            kind = "a whole number" if whole else "a number"
            raise self._wrong(key, f"be {kind} from {least:g} to {most:g}", value)
        return value

    def refuse_unknown(self) -> None:
        unknown = [key for key in self.found if key not in self.known]
        if unknown:
            valid = ", ".join(self.known)
            raise UsageError(
                f"Policy {self.shown}: unknown key {short(unknown[0])}; the valid ones are {valid}."
            )

    def _take(self, key: str, default: object) -> Any:
        self.known.append(key)
        return self.found.get(key, default)

    def _wrong(self, key: str, rule: str, value: object) -> UsageError:
        found = "nothing" if value is None else short(value)
        return UsageError(f"Policy {self.shown}: {key} must {rule}, found {found}.")
