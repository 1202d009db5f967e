"""The site: built strictly, so that no link and no anchor is broken, and loading nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.markdown import DOCS, ROOT

LOADED = re.compile(
    r"""<(?:script|img|iframe|source|link(?=[^>]*rel="?(?:stylesheet|icon|preconnect|preload)))[^>]*
    (?:src|href)="?(?:https?:)?//""",
    re.VERBOSE,
)
"""A tag that makes the browser load something from another host."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_built(site: Path) -> None:
    assert {page.stem for page in DOCS.glob("*.md")} == {page.stem for page in site.glob("*.html")} - {"404"}


def test_a_page_loads_nothing_from_elsewhere(site: Path) -> None:
    loaded = {page.name: LOADED.findall(page.read_text("utf-8")) for page in site.glob("*.html")}
    assert {name: tags for name, tags in loaded.items() if tags} == {}
    styles = "".join(path.read_text("utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"url\(['\"]?(?:https?:)?//[^)]*", styles) == []


@pytest.mark.parametrize(
    "tag",
    [
        '<script src="https://unpkg.com/x">',
        '<link rel="stylesheet" href="//fonts.example/x.css">',
        '<img alt="" src=https://img.example/x.png>',
    ],
)
def test_what_loads_from_elsewhere_is_noticed(tag: str) -> None:
    assert LOADED.search(tag)


def test_the_api_page_has_what_is_public(site: Path) -> None:
    page = (site / "api.html").read_text("utf-8")
    wanted = ("finetune.api.train", "finetune.api.load_run", "finetune.api.Run.predictions")
    assert [name for name in wanted if f'id="{name}"' not in page] == []


def test_links_out_of_the_site_become_text(site: Path) -> None:
    page = (site / "scaling.html").read_text("utf-8")
    assert "deploy/slurm.sh" in page
    assert "../deploy" not in page
