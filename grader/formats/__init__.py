"""A grade as text, JSON, JUnit XML or Gradescope's results.json."""

from collections.abc import Callable
from dataclasses import dataclass

from grader.formats.gradescope import to_gradescope
from grader.formats.json import to_json
from grader.formats.junit import to_junit
from grader.formats.text import to_text, to_verbose_text
from grader.grading.verdict import Grade


@dataclass(frozen=True)
class Format:
    """How to write a grade, and the file extension to use."""

    write: Callable[[Grade], str]
    extension: str


FORMATS = {
    "text": Format(to_text, "txt"),
    "verbose": Format(to_verbose_text, "txt"),
    "json": Format(to_json, "json"),
    "junit": Format(to_junit, "xml"),
    "gradescope": Format(to_gradescope, "gradescope.json"),
}
