"""Compare two run folders but for times: `python -m tests.compare_runs RUN_A RUN_B`.

Prints each difference and exits with 1, or prints "identical" and exits with 0. The SHA-256 digests of the
prediction files that are the same in both runs follow. Durations, rates, memory, the tool's version and the
report are left out; everything else counts: results.json value by value, all other files byte by byte.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

TIMES = (
    "created_at",
    "timings",
    "images_per_second",
    "peak_memory_bytes",
    "tool",
    "free_memory_bytes",
    "load_average",
)
WITH_TIMES = ("results.json", ".lock", "report.html")
"""Files that differ between two runs of the same experiment."""
MISSING = "nothing"


def without_times(value: Any) -> Any:
    """Results without times, rates, memory and the state of the source tree."""
    if isinstance(value, Mapping):
        return {k: without_times(v) for k, v in value.items() if k not in TIMES and not k.endswith("seconds")}
    if isinstance(value, list):
        return [without_times(v) for v in value]
    return value


def file_digests(out: Path, skip: Sequence[str] = WITH_TIMES) -> dict[str, str]:
    """SHA-256 of every file of a run folder but those to skip."""
    return {
        p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(out.rglob("*"))
        if p.is_file() and p.relative_to(out).as_posix() not in skip
    }


def differences(a: Path, b: Path, ignore: Sequence[str] = ()) -> list[str]:
    """One line for each value of results.json and each file that differs; `ignore` names more files."""
    results = [without_times(json.loads((run / "results.json").read_text("utf-8"))) for run in (a, b)]
    files = [file_digests(run, (*WITH_TIMES, *ignore)) for run in (a, b)]
    return [*_differing("results.json", *results), *_differing("", *files)]


def assert_same_run(found: Path, expected: Path, ignore: Sequence[str] = ("config.toml",)) -> None:
    """Fail unless two run folders are equal but for times; config.toml names the weights file's folder."""
    different = differences(found, expected, ignore)
    assert not different, "\n".join(different)
    assert (found / "report.html").read_bytes().startswith(b"<!DOCTYPE html>")


def _differing(at: str, a: Any, b: Any) -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            yield from _differing(f"{at} {key}".strip(), a.get(key, MISSING), b.get(key, MISSING))
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for number, pair in enumerate(zip(a, b, strict=True)):
            yield from _differing(f"{at}[{number}]", *pair)
    elif a != b:
        yield f"{at}: {_shortened(a)}, {_shortened(b)}"


def _shortened(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def main(arguments: Sequence[str]) -> int:
    """Run it as the module's docstring says."""
    if len(arguments) != 2 or not all((Path(run) / "results.json").is_file() for run in arguments):
        print("Usage: python -m tests.compare_runs RUN_A RUN_B, two folders with a results.json")  # noqa: T201
        return 2
    a, b = map(Path, arguments)
    found = differences(a, b)
    print("\n".join(found) if found else "identical")  # noqa: T201 - its answer
    others = file_digests(b)
    for name, digest in file_digests(a).items():
        if name.startswith("predictions/") and others.get(name) == digest:
            print(f"{digest}  {name}")  # noqa: T201
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
