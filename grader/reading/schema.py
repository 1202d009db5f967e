"""Check documents against the package's JSON schemas, with one sentence per violation."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from math import isfinite
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

from grader.errors import nearest
from grader.reading.strict_json import short

RESULTS_SCHEMA = "results.schema.json"
OLDER_SCHEMAS = {"1.0": "results-1.schema.json"}
"""Earlier versions of the results schema that the grader still reads, by `schema_version`."""

TYPES = {
    "array": "a list", "boolean": "true or false", "integer": "an integer", "null": "null",
    "number": "a number", "object": "an object", "string": "a string",
}  # fmt: skip
LIMITS = {
    "minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"
}  # fmt: skip


def load_schema(name: str) -> dict[str, Any]:
    """A schema of this package, by file name."""
    schema: dict[str, Any] = json.loads(resources.files("grader").joinpath(name).read_text("utf-8"))
    return schema


def schema_problems(document: object) -> Iterator[str]:
    """Each violation of the results schema, as a sentence that starts with its JSON path.

    A document that names an older version is held to the schema of that version.
    """
    version = document.get("schema_version") if isinstance(document, Mapping) else None
    validator = _results_validator(OLDER_SCHEMAS.get(str(version), RESULTS_SCHEMA))
    return (f"{path[:200]}: {sentence}." for path, sentence in violations(document, validator))


def violations(document: object, validator: Any) -> Iterator[tuple[str, str]]:
    """The JSON path of each violation, and a phrase with the rule and the value found."""
    return ((error.json_path, _phrase(error)) for error in validator.iter_errors(document))


def validator_for(schema: Mapping[str, Any]) -> Any:
    """A strict validator: 5.0 is no integer, and NaN and infinity are no numbers."""
    # The library's uniqueItems compares every pair, which takes minutes for a long list of mixed types.
    types = Draft202012Validator.TYPE_CHECKER.redefine_many({"integer": _is_integer, "number": _is_number})
    strict: Any = extend(  # type: ignore[no-untyped-call]
        Draft202012Validator,
        validators={"uniqueItems": _unique_items, "pattern": _pattern},
        type_checker=types,
    )
    return strict(schema)


@cache
def _results_validator(name: str) -> Any:
    return validator_for(load_schema(name))


def _is_integer(_checker: Any, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(_checker: Any, value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _unique_items(_validator: Any, wanted: bool, items: Any, _schema: Any) -> Iterator[ValidationError]:
    if (
        wanted
        and isinstance(items, list)
        and len({json.dumps(i, sort_keys=True) for i in items}) < len(items)
    ):
        yield ValidationError("duplicate item")


def _pattern(_validator: Any, rule: str, text: Any, _schema: Any) -> Iterator[ValidationError]:
    """Stricter than Python: its `$` also matches before a line break, its digits are not only ASCII."""
    if isinstance(text, str) and not re.fullmatch(rule.replace(r"\d", "[0-9]"), text):
        yield ValidationError("pattern")


def _phrase(error: ValidationError) -> str:
    """The rule and the value found, cut to a readable length."""
    found = short(json.dumps(error.instance, default=str), "")
    rule: Any = error.validator_value
    schema: Any = error.schema
    instance: Any = error.instance
    match error.validator:
        case "required":
            # The library reports one error per missing name, and its message starts with that name.
            absent = [name for name in rule if name not in instance]
            return (
                f"{short(next(name for name in absent if error.message.startswith(repr(name))))} is missing"
            )
        case "additionalProperties":
            known = schema.get("properties", {})
            unknown = [short(name) for name in instance if name not in known]
            more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
            near = nearest(unknown[0].strip("'"), known) if len(unknown) == 1 else None
            hint = f" (did you mean {near!r}?)" if near else ""
            return f"unknown key {', '.join(unknown[:5])}{more}{hint}; valid keys are {', '.join(known)}"
        case "type" | "minimum" | "exclusiveMinimum" | "maximum" | "exclusiveMaximum":
            names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
            limits = ", ".join(f"{word} {schema[key]}" for key, word in LIMITS.items() if key in schema)
            types = " or ".join(TYPES[name] for name in names)
            return f"must be {types}{f' ({limits})' if limits else ''}, found {found}"
        case "const":
            return f"must be {json.dumps(rule)}, found {found}"
        case "enum":
            return f"must be one of {', '.join(map(json.dumps, rule))}, found {found}"
        case "pattern":
            return f"must match {rule}, found {found}"
        case "minItems" | "minLength" | "minProperties":
            return (
                f"must not be empty, found {found}" if rule == 1 else f"needs {rule} or more, found {found}"
            )
        case "uniqueItems":
            return f"must not contain duplicates, found {found}"
        case _:
            return f"violates the schema's rule {error.validator}, found {found}"
