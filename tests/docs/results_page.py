"""docs/results-file.md: every field of results.json, from grader/results.schema.json."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tests.docs.markdown import ROOT, cell, table

SCHEMA = ROOT / "grader" / "results.schema.json"
Schema = dict[str, Any]


def fields() -> str:
    """The fields as sections: first the file itself, then each object in it, then those that recur."""
    schema = json.loads(SCHEMA.read_text("utf-8"))
    parts = [section(2, "The file", schema, "")]
    for name, field in schema["properties"].items():
        parts += nested(3, name, field)
    parts.append("## Objects that occur in several places\n")
    for name, definition in sorted(schema["$defs"].items()):
        if inner(definition):
            parts += [section(3, f"`{name}`", definition, f"{name}."), *children(4, name, definition)]
    return "\n".join(parts)


def nested(level: int, path: str, field: Schema) -> Iterator[str]:
    """The section of a field if it is an object or a list of objects, then those inside it."""
    if inner(field):
        listed = "[]" if "items" in field else ""
        yield section(level, f"`{path}{listed}`", field, f"{path}{listed}.")
        yield from children(level + 1, path + listed, field)


def children(level: int, path: str, field: Schema) -> Iterator[str]:
    """The sections of the objects inside an object."""
    for name, child in inner(field).items():
        yield from nested(level, f"{path}.{name}", child)


def inner(field: Schema) -> dict[str, Schema]:
    """The fields of an object, or of the objects in a list; none if it is neither or defined elsewhere."""
    properties: dict[str, Schema] = field.get("properties") or field.get("items", {}).get("properties", {})
    return properties


def section(level: int, title: str, field: Schema, prefix: str) -> str:
    """A heading, what the object is, and a table of its fields."""
    rows = [
        [f"`{name}`", cell(kind(child, prefix + name)), cell(child["description"])]
        for name, child in inner(field).items()
    ]
    return f"{'#' * level} {title}\n\n{field['description']}\n\n{table(['field', 'value', 'meaning'], rows)}"


def kind(field: Schema, path: str) -> str:
    """What values a field takes, in words; objects link to their section."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return "SHA-256" if name == "sha256" else link(name)
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if "enum" in field:
        return ", ".join(f"`{json.dumps(value)}`" for value in field["enum"])
    if "oneOf" in field or "anyOf" in field:
        return " or ".join(kind(one, path) for one in field.get("oneOf") or field["anyOf"])
    types = field["type"] if isinstance(field["type"], list) else [field["type"]]
    return " or ".join(name_of(one, field, path) for one in types)


def name_of(kind_name: str, field: Schema, path: str) -> str:
    """One JSON type in words, with the limits of its values."""
    if kind_name == "object":
        return link(path) if inner(field) else "object"
    if kind_name == "array":
        items = field["items"]
        if inner(items):
            return f"list of {link(path + '[]', path.rpartition('.')[2])}"
        one = kind(items, path)
        return "list of " + (one if one.startswith("[") else re.sub("number|string", r"\g<0>s", one))
    if kind_name in ("integer", "number"):
        return " ".join(["whole number" if kind_name == "integer" else "number", *limits(field)])
    return {"string": "string", "boolean": "`true`, `false`", "null": "`null`"}[kind_name]


def limits(field: Schema) -> Iterator[str]:
    """The smallest and the largest value."""
    for key, sign in (
        ("minimum", "≥"),
        ("exclusiveMinimum", ">"),
        ("maximum", "≤"),
        ("exclusiveMaximum", "<"),
    ):
        if key in field:
            yield f"{sign} {field[key]:g}"


def link(path: str, text: str | None = None) -> str:
    """A link to the section of an object; GitHub and MkDocs both make its anchor from letters alone."""
    anchor = "".join(c for c in path.lower() if c.isalnum() or c in "_-")
    return f"[{text or path.rpartition('.')[2]}](#{anchor})"
