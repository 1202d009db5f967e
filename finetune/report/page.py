"""From judged runs to `report.html`: the templates, what they may call, and the file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from finetune import __version__
from finetune.report.comparison import comparison_context
from finetune.report.contents import run_context
from finetune.report.judged import JudgedRun
from finetune.report.plot import swatch
from finetune.system.files import write_atomically
from grader.checks.compare import p_text
from grader.findings import in_points, rate_text
from grader.formats.clean import clean

REPORT_NAME = "report.html"

MOST_CHARACTERS = 60
"""Of a class or file name that is shown."""

MARKS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that change the direction of the text around them (Unicode Annex 9)."""


def write_report(runs: Sequence[JudgedRun], out: Path) -> None:
    """Write the report of one run, or the comparison of several, as one self-contained file.

    Raises:
        RunFolderError: the file cannot be written.
    """
    write_atomically(out, page(runs).encode())


def page(runs: Sequence[JudgedRun]) -> str:
    """The report of one run, or the comparison of several."""
    name, context = (
        ("run.html", run_context(runs[0]))
        if len(runs) == 1
        else ("comparison.html", comparison_context(runs))
    )
    return _environment().get_template(name).render(context)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("finetune.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (resources.files("finetune.report") / "templates" / "style.css").read_text("utf-8")
    digest = hashlib.sha256(style.encode()).digest()
    environment.globals |= {
        "style": Markup(style),  # noqa: S704 - our own file
        "style_hash": Markup(base64.b64encode(digest).decode()),  # noqa: S704 - letters, digits, + / =
        "swatch": swatch,
        "version": __version__,
    }
    environment.filters |= {
        "brief": _brief,
        "capitalize_first": _capitalize_first,
        "with_code": _with_code,
        "duration": _duration,
        "name": name,
        "p_text": p_text,
        "plain": plain,
        "points": in_points,
        "rate": rate_text,
        "share": _share,
    }
    return environment


def plain(text: object, at_most: int = MOST_CHARACTERS) -> str:
    """Text from a results file in one line, without control characters, shortened in the middle."""
    shown = clean("".join(c for c in str(text) if c not in MARKS))
    if len(shown) <= at_most:
        return shown
    tail = at_most // 3
    return f"{shown[: at_most - tail - 1]}…{shown[-tail:]}"


def name(text: object, at_most: int = MOST_CHARACTERS) -> Markup:
    """The same as HTML that keeps the direction of its letters to itself."""
    return Markup("<bdi>{}</bdi>").format(escape(plain(text, at_most)))


def _share(value: float | None) -> str:
    if value is None:
        return "\N{EN DASH}"
    return "<0.1%" if 0 < value < 0.0005 else f"{value:.1%}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 6000 else f"{seconds / 3600:.3g} h"


def _brief(count: int) -> str:
    """A number of parameters in three digits."""
    if count < 1000:
        return str(count)
    return f"{count / 1e3:.3g} k" if count < 999_500 else f"{count / 1e6:.3g} M"


def _with_code(text: str) -> Markup:
    """A sentence as HTML, what is between backticks as code."""
    parts = str(escape(text)).split("`")
    marked = [f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts)]
    return Markup("".join(marked))  # noqa: S704 - escaped above


def _capitalize_first(text: str) -> str:
    return text[:1].upper() + text[1:]
