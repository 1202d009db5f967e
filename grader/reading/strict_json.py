"""Parse untrusted JSON: strictly, and with limits on size, depth and number of values."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from grader.errors import UnusableError

MAX_BYTES = 8 * 1024 * 1024  # about 200 runs; a file with 15 runs is well below 1 MiB
MAX_VALUES = 100_000  # 15 runs of 200 epochs have about 70,000
MAX_DEPTH = 32
MAX_INTEGER = 2**63 - 1
MAX_INTEGER_CHARACTERS = 20


@dataclass(frozen=True)
class _Invalid:
    """Placeholder for an invalid value in the parsed tree, from which its JSON path is found later."""

    problem: str


def parse(content: bytes, shown: str) -> Any:
    """Parse strict JSON.

    Args:
        content: The file's bytes, at most `MAX_BYTES` long.
        shown: How messages refer to the file.

    Returns:
        The document as dicts, lists, strings, ints, finite floats, bools and None.

    Raises:
        UnusableError: Not UTF-8, a byte order mark, a syntax error, a duplicate key, NaN or Infinity, an
            integer beyond 64 bits, a lone surrogate, too deep or too many values. Lists all problems except
            syntax errors, which come alone.
    """
    if content.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise UnusableError([f"{shown} starts with a byte order mark; save it as UTF-8 without BOM."])
    if content.count(b",") > MAX_VALUES:  # before parsing, which takes memory
        raise UnusableError([f"{shown} has more than {MAX_VALUES:,} values."])
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnusableError([f"{shown} is not UTF-8: cannot decode byte {error.start}."]) from error
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=lambda name: _Invalid(f"{name} is not a JSON number"),
        )
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise UnusableError([f"{shown} is not JSON: {error.msg} at {where}."]) from error
    except RecursionError as error:
        raise UnusableError([f"{shown} is nested deeper than {MAX_DEPTH} levels."]) from error
    problems = [f"{shown}: {path}: {problem}." for path, problem in _problems(value)]
    if problems:
        raise UnusableError(problems)
    return value


def _object(pairs: list[tuple[str, Any]]) -> Any:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            break
        seen.add(name)
    return _Invalid(f"duplicate key {short(name)}")


def _integer(digits: str) -> Any:
    if len(digits) <= MAX_INTEGER_CHARACTERS and abs(int(digits)) <= MAX_INTEGER:
        return int(digits)
    return _Invalid(f"integer of {len(digits)} characters; the maximum is 2^63 \N{MINUS SIGN} 1")


def _float(digits: str) -> Any:
    value = float(digits)
    return value if math.isfinite(value) else _Invalid("number too large for a 64-bit float")


_Path = tuple["_Path", str | int] | None  # of a value: the path of its parent, and its key


def _problems(root: Any) -> Iterator[tuple[str, str]]:
    """Walk the tree without recursion; yield the JSON path and the problem of each invalid value."""
    values = 0
    waiting: list[tuple[_Path, int, Any]] = [(None, 0, root)]
    while waiting:
        path, depth, value = waiting.pop()
        values += 1
        if depth > MAX_DEPTH:
            yield _json_path(path)[:200], f"nested deeper than {MAX_DEPTH} levels"
            return
        if values > MAX_VALUES:
            yield "$", f"more than {MAX_VALUES:,} values"
            return
        if isinstance(value, _Invalid):
            yield _json_path(path), value.problem
        elif isinstance(value, str):
            if not _encodable(value):
                yield _json_path(path), "string contains a lone surrogate, which is not valid Unicode"
        elif isinstance(value, dict):
            if not all(map(_encodable, value)):
                yield _json_path(path), "key contains a lone surrogate, which is not valid Unicode"
            waiting.extend([((path, name), depth + 1, child) for name, child in value.items()])
        elif isinstance(value, list):
            waiting.extend([((path, index), depth + 1, child) for index, child in enumerate(value)])


def _json_path(path: _Path) -> str:
    """A path in JSONPath notation, such as `$.runs[0].seed`."""
    steps = []
    while path is not None:
        path, key = path
        steps.append(f"[{key}]" if isinstance(key, int) else f".{short(key, '')}")
    return "$" + "".join(reversed(steps))


def _encodable(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def short(value: object, quote: str = "'", width: int = 60) -> str:
    """A value for a message: printable, quoted, and cut to `width` characters."""
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(value)[: width + 1])
    return f"{quote}{text if len(text) <= width else text[: width - 3] + '...'}{quote}"
