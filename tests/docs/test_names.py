"""Files and tests that pages name exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.markdown import DOCS, ROOT

TESTS = "\n".join(path.read_text("utf-8") for path in sorted((ROOT / "tests").rglob("*.py")))
NAMES = set(re.findall(r"(?:def|class) (\w+)", TESTS))
FILES = {
    path.name
    for package in ("finetune", "grader", "tests", "deploy")
    for path in (ROOT / package).rglob("*.py")
}
GONE = {"finetune/train.py", "finetune/splits.py", "finetune/reevaluate.py", "samples.py"}
"""Modules that docs/reliability.md mentions by their former names, and says so."""


def unknown(text: str) -> Iterator[str]:
    """Tests and modules that a page names in code, of which there are none; a name may be cut with ..."""
    for code in re.findall(r"`([^`\n]+)`", text):
        if code in GONE or " " in code:
            continue
        for part in code.split("::"):
            if part.endswith(".py"):
                if part.rpartition("/")[2] not in FILES:
                    yield part
            elif re.match(r"…?(test_|Test[A-Z])", part) and not any(part.strip("…") in n for n in NAMES):
                yield part


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_a_page_names_what_exists(page: Path) -> None:
    assert list(unknown(page.read_text("utf-8"))) == []


def test_what_does_not_exist_is_noticed() -> None:
    text = "`test_no_such.py::TestNothing`, `finetune/cli/nothing.py`, `test_names.py::test_what_does_no…`"
    assert list(unknown(text)) == ["test_no_such.py", "TestNothing", "finetune/cli/nothing.py"]
