"""No input makes the grader stumble: no exception, no exit code but 0, 1, 2, no run above 2 s.

GRADER_FUZZ sets the number of mutated inputs of each kind; the slow variants use 10,000 of each.
"""

import hashlib
import json
import os
import random
import shutil
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from grader.formats import FORMATS
from grader.grading.grade import Job, grade
from grader.grading.policy import Policy
from tests.grader.honest import Size, write_run

N = int(os.environ.get("GRADER_FUZZ", "60"))
LONGEST_SECONDS = 2.0
EXAMPLES = [N, pytest.param(10_000, marks=pytest.mark.slow)]

# What a careless or hostile hand puts into a JSON value or a CSV cell.
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63 - 1, 2**63, 10**400, 0.5, -0.0, 1e308, 5e-324, float("nan"),
    float("inf"), "", "0", "A", "\x00", "\x1b[31m", "\ud800", "=1+1", "../x", "a" * 70_000, [], {}, [[]],
    [0] * 1000, {"a": {"b": [1]}}, "0" * 64, "predictions/A-seed0-test.csv", [None, "x", 1, 1.0],
]  # fmt: skip
CELLS = [
    "", "-1", "0", "9", "10", "1e5", "1e400", "nan", "inf", "-0", "0x1", "1_0", "\u0661", "\x00", '"', '""',
    '"a', "a\rb", "'", ",", ",,,", "\n", "\r\n", "=1+1", "@x", "-2+3|x", "\ufeff", "\u2028", "x" * 9000,
    "sample_id", "digit-01600", "99999999999999999999", "0.1", " 1", "1 ",
]  # fmt: skip
CHUNKS = [
    b"",
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b"{",
    b"[" * 5000,
    b"}",
    b'"',
    b",",
    b"1" * 5000,
    b"NaN",
    b"-",
    b"\\u",
]


def some_place(document: Any, rng: random.Random) -> list[Any]:
    """A path to a value, by a random walk: the few fields at the top are met as often as the many below."""
    path: list[Any] = []
    value = document
    while isinstance(value, dict | list) and value and (not path or rng.random() < 0.9):
        path.append(rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value)))
        value = value[path[-1]]
    return path


def some_value(rng: random.Random) -> Any:
    """A fresh copy, because a later change may alter it."""
    return deepcopy(rng.choice(VALUES))


def mutated_json(content: bytes, rng: random.Random) -> bytes:
    """The file with one to three changes to values, or to bytes."""
    if rng.random() < 0.1:
        return mutated_bytes(content, rng)
    document = json.loads(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if not (place := some_place(document, rng)):
            break
        *path, last = place
        parent = document
        for key in path:
            parent = parent[key]
        old = parent[last]
        match rng.choice((0, 1, 2, *[3] * 9, 9)):  # mostly values of the right type
            case 0:
                del parent[last]
            case 1 if isinstance(parent, dict):
                parent[rng.choice(["extra", "", "\x1b", "seed"])] = some_value(rng)
            case 1 | 2 if isinstance(parent, list):
                parent.insert(0, json.loads(json.dumps(old)))
            case 3 if isinstance(old, int | float) and not isinstance(old, bool):
                change = rng.choice([0, -1, 2, 0.5, 10**6, 10**12]) if isinstance(old, float) else 1
                parent[last] = old * change + rng.choice([0, 1, -1, 10**9])
            case 3 if isinstance(old, str):
                parent[last] = rng.choice(
                    ["A", "B", "random", "failed", "0" * 64, "f" * 64, "official", "cuda"]
                )
            case 3 if isinstance(old, list) and old:
                parent[last] = rng.choice([old[1:], old + old, old[::-1], old[:1]])
            case 3 if isinstance(old, dict) and isinstance(parent, dict):
                parent[last] = deepcopy(rng.choice([v for v in parent.values() if isinstance(v, dict)]))
            case _:
                parent[last] = some_value(rng)
    return json.dumps(document).encode()


def mutated_csv(content: bytes, rng: random.Random) -> bytes:
    """The file with one to three changes to cells, to rows, or to bytes."""
    if rng.random() < 0.25:
        return mutated_bytes(content, rng)
    rows = [line.split(",") for line in content.decode().splitlines()]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        row = rng.randrange(len(rows))
        match rng.randrange(6):
            case 0:
                del rows[row]
            case 1:
                rows.insert(row, list(rng.choice(rows)))
            case 2:
                rows[row].insert(rng.randrange(5), rng.choice(CELLS))
            case 3:
                rows[row] = rows[row] * rng.choice([0, 2, 1000])
            case _:
                rows[row][rng.randrange(4) % max(1, len(rows[row])) : 1] = [rng.choice(CELLS)]
        if not rows:
            break
    return "\n".join([*(",".join(row) for row in rows), ""]).encode("utf-8", "surrogatepass")


def mutated_bytes(content: bytes, rng: random.Random) -> bytes:
    place, length = rng.randrange(len(content)), rng.choice((0, 1, 1, 8, 300))
    return content[:place] + rng.choice(CHUNKS) + content[place + length :]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small honest run to change and put right again."""
    size = Size(n_train=60, n_val=40, n_test=40, epochs=3)
    return write_run(tmp_path_factory.mktemp("fuzz") / "run", size)


def check(folder: Path, policy: Policy) -> None:
    """Grade and write in every format; the grader must survive, soon."""
    start = time.process_time()  # of this process, whatever else the machine does
    found = grade(Job(folder, "fuzz", policy))
    texts = {name: form.write(found) for name, form in FORMATS.items()}
    assert time.process_time() - start < LONGEST_SECONDS
    assert found.exit_code in (0, 1, 2)
    for text in texts.values():
        text.encode("utf-8")  # no lone surrogates
        assert not any(ord(c) < 32 and c != "\n" for c in text)  # nothing that steers a terminal
    assert all(problem.endswith(".") for problem in found.problems)


def fuzz(
    n: int, file: Path, mutate: Callable[[bytes, random.Random], bytes], folder: Path, policy: Policy
) -> None:
    honest = file.read_bytes()

    @settings(
        max_examples=n, database=None, deadline=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.integers(0, 2**63))
    def survives(seed: int) -> None:
        changed = mutate(honest, random.Random(seed))  # noqa: S311 - nothing secret
        file.write_bytes(changed)
        check(folder, policy)

    try:
        survives()
    finally:
        file.write_bytes(honest)


@pytest.mark.parametrize("n", EXAMPLES)
def test_mutated_json(n: int, small: Path, policy: Policy) -> None:
    fuzz(n, small / "results.json", mutated_json, small, policy)


@pytest.mark.parametrize("n", EXAMPLES)
def test_mutated_csv(n: int, small: Path, policy: Policy, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(small, folder)
    file, results = folder / "predictions" / "B-seed0-test.csv", folder / "results.json"
    recorded, text = hashlib.sha256(file.read_bytes()).hexdigest(), results.read_text()

    def mutate(content: bytes, rng: random.Random) -> bytes:
        changed = mutated_csv(content, rng)
        # With the new hash recorded, so that what is still CSV reaches every check.
        results.write_text(text.replace(recorded, hashlib.sha256(changed).hexdigest()))
        return changed

    fuzz(n, file, mutate, folder, policy)


@settings(max_examples=N, database=None, deadline=None, derandomize=True)
@given(st.binary(max_size=2000))
def test_any_bytes(small: Path, policy: Policy, content: bytes) -> None:
    file = small / "results.json"
    honest = file.read_bytes()
    try:
        file.write_bytes(content)
        check(small, policy)
    finally:
        file.write_bytes(honest)
