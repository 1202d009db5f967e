"""The pages that are generated are those that the code gives."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from finetune.cli.options import OPTIONS
from tests.docs import results_page
from tests.docs.markdown import DOCS, ROOT
from tests.docs.pages import PAGES, page


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_up_to_date(name: str) -> None:
    assert (DOCS / name).read_text("utf-8") == page(name), "run: python -m tests.docs.pages"


def names(schema: object) -> set[str]:
    """The names of all fields, however deep."""
    if isinstance(schema, list):
        return set().union(*map(names, schema))
    if not isinstance(schema, dict):
        return set()
    own = set(schema["properties"]) if isinstance(schema.get("properties"), dict) else set()
    return own.union(*map(names, schema.values()))


def test_every_field_of_the_results_has_a_row() -> None:
    fields = names(json.loads(results_page.SCHEMA.read_text("utf-8")))
    text = results_page.fields()
    assert [name for name in sorted(fields) if f"| `{name}` |" not in text] == []


def test_every_option_of_train_has_a_row() -> None:
    section = page("cli.md").partition("## finetune train\n")[2].partition("\n## ")[0]
    assert [n for n in OPTIONS if f"| `--{n.replace('_', '-')}" not in section] == []


def test_the_program_that_reads_results_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "tests" / "grader" / "smoke-run", tmp_path / "runs" / "RUN")
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"^```python\n(.*?)^```", page("results-file.md"), re.MULTILINE | re.DOTALL)
    exec(program, {})  # noqa: S102 - our own page
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [[v, s] for s in "01" for v in "ABC"]
    assert all(0 < float(line.split()[2]) <= 1 for line in lines)
