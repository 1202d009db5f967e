"""What MkDocs does to pages."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import markdown
import pytest

from tests.docs.markdown import DOCS


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links_out_of_the_site_become_text(hooks: ModuleType) -> None:
    text = "[here](page.md), [`there`](../deploy/x.sh), [elsewhere](https://example.org/../x)"
    expected = "[here](page.md), `there`, [elsewhere](https://example.org/../x)"
    assert hooks.on_page_markdown(text) == expected


@pytest.mark.parametrize("mark", ["1. ", "* ", "- "])
def test_what_belongs_to_an_item_stays_in_it(hooks: ModuleType, mark: str) -> None:
    below = len(mark) * " "
    text = f"{mark}One\n\n{below}    code\n\n{below}text\n\n{mark}Two\n\nAfter\n\n    code\n"
    html = markdown.markdown(hooks.on_page_markdown(text))
    assert html.count("<li>") == 2
    first, _, after = html.partition("</li>")
    assert "<pre><code>code\n</code></pre>" in first
    assert "<p>text</p>" in first
    assert html.count("<ol>") + html.count("<ul>") == 1
    assert after.endswith("<p>After</p>\n<pre><code>code\n</code></pre>")
