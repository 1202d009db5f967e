"""Write what is generated into the pages: python -m tests.docs.pages."""

from __future__ import annotations

from collections.abc import Callable

from grader.formats import FORMATS
from grader.grading.grade import Job, grade_safely
from grader.grading.policy import load_policy
from tests.docs import options_page, results_page
from tests.docs.markdown import DOCS, ROOT

BEGIN, END = "<!-- generated: python -m tests.docs.pages -->\n", "<!-- end -->\n"


def example_of_a_grade() -> str:
    """What `grader tests/grader/smoke-run` prints."""
    run = ROOT / "tests" / "grader" / "smoke-run"
    text = FORMATS["text"].write(grade_safely(Job(run, run.name, load_policy("default"))))
    return "".join(f"    {line}".rstrip() + "\n" for line in text.splitlines())


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": options_page.commands,
    "configuration.md": options_page.keys,
    "grading.md": example_of_a_grade,
    "results-file.md": results_page.fields,
}
"""The pages, and what makes their generated part; the rest of a page is written by hand."""


def page(name: str) -> str:
    """A page with its generated part as it should be."""
    text = (DOCS / name).read_text("utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, f"{name} must have the line {BEGIN!r}"
    assert end, f"{name} must have the line {END!r}"
    return f"{before}{BEGIN}\n{PAGES[name]()}\n{END}{after}"


if __name__ == "__main__":
    for name in PAGES:
        (DOCS / name).write_text(page(name), "utf-8")
