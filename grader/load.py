"""A path from the command line -> a checked results file and where it lies."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

from grader import jsonfile
from grader.errors import UnusableError, UsageError
from grader.files import read_bytes
from grader.jsonfile import short
from grader.record import Results, results_from

RESULTS_NAME = "results.json"
MOST_PROBLEMS = 1000  # where counting the violations of one file stops


@dataclass(frozen=True)
class Submission:
    """A results file that can be judged, and the folder that its paths are relative to."""

    folder: Path
    results: Results


def newest_run(runs: Path) -> Path:
    """The run folder below `runs` whose results file was written last.

    Raises:
        UsageError: There is none.
    """
    found = [path for path in runs.glob(f"*/{RESULTS_NAME}") if path.is_file()]
    if not found:
        raise UsageError(
            f"No run to grade: there is no {runs}/*/{RESULTS_NAME}. Train with `finetune train` first, "
            "or name a run folder or its results file."
        )
    return max(found, key=lambda path: (path.stat().st_mtime_ns, path)).parent


def load(path: Path) -> Submission:
    """Read and check the results file of a run.

    Args:
        path: A run folder, or its results file.

    Returns:
        The checked submission.

    Raises:
        UnusableError: The file cannot be read, is not strict JSON, or breaks the schema; told in full.
    """
    is_folder = path.is_dir()
    file = path / RESULTS_NAME if is_folder else path
    content = read_bytes(file, short(file, "", 200), jsonfile.MAX_BYTES, follow=not is_folder)
    document = jsonfile.parse(content, file.name)
    problems = [f"{file.name}: {problem}" for problem in islice(schema_problems(document), MOST_PROBLEMS)]
    if problems:
        raise UnusableError(problems)
    return Submission(file.parent, results_from(document))


def schema_problems(document: object) -> Iterator[str]:
    """Each violation of the results schema, as a sentence that begins with its JSON path."""
    for error in _validator().iter_errors(document):
        yield f"{error.json_path[:200]}: {_sentence(error)}."


@cache
def _validator() -> Any:
    schema = json.loads(resources.files("grader").joinpath("results.schema.json").read_text("utf-8"))
    # Draft 2020-12 calls 5.0 an integer; a count written as 5.0 was not counted. And the library's
    # uniqueItems compares every pair, which a long list of mixed types turns into minutes.
    types = Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _checker, value: isinstance(value, int) and not isinstance(value, bool)
    )
    strict: Any = extend(  # type: ignore[no-untyped-call]
        Draft202012Validator, validators={"uniqueItems": _unique_items}, type_checker=types
    )
    return strict(schema)


def _unique_items(_validator: Any, wanted: bool, items: Any, _schema: Any) -> Iterator[ValidationError]:
    if (
        wanted
        and isinstance(items, list)
        and len({json.dumps(i, sort_keys=True) for i in items}) < len(items)
    ):
        yield ValidationError("has an item twice")


def _sentence(error: ValidationError) -> str:
    """What the rule is and what was found, without repeating a submission's megabytes."""
    found = short(json.dumps(error.instance))
    rule: Any = error.validator_value
    schema: Any = error.schema
    instance: Any = error.instance
    match error.validator:
        case "required":
            return f"{short(_missing(error))} is required and is not there"
        case "additionalProperties":
            known = schema.get("properties", {})
            extra = [short(name) for name in instance if name not in known]
            return f"unknown field {', '.join(extra[:5])}{' and more' if len(extra) > 5 else ''}"
        case "type":
            return f"must be of type {rule if isinstance(rule, str) else ' or '.join(rule)}, found {found}"
        case "const" | "enum":
            return f"must be {json.dumps(rule)}, found {found}"
        case "pattern":
            return f"must match {rule}, found {found}"
        case "minimum" | "exclusiveMinimum" | "maximum" | "exclusiveMaximum":
            relation = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most"}
            return f"must be {relation.get(str(error.validator), 'below')} {rule}, found {found}"
        case "minItems" | "minLength":
            return f"must have at least {rule} item(s) or character(s), found {found}"
        case "uniqueItems":
            return f"must have no item twice, found {found}"
        case _:
            return f"does not fit the schema's rule {error.validator}, found {found}"


def _missing(error: ValidationError) -> str:
    """The first required name that is absent and that the library's message names."""
    required: Any = error.validator_value
    instance: Any = error.instance
    absent: list[str] = [name for name in required if name not in instance]
    return next((name for name in absent if error.message.startswith(repr(name))), absent[0])
