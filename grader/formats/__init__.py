"""A grade as text, JSON, JUnit XML or Gradescope's results.json."""

from collections.abc import Callable

from grader.formats.gradescope import to_gradescope
from grader.formats.json import to_json
from grader.formats.junit import to_junit
from grader.formats.text import to_text
from grader.verdict import Grade

# Format -> how it is written, and the ending of its file.
FORMATS: dict[str, tuple[Callable[[Grade], str], str]] = {
    "text": (to_text, "txt"),
    "json": (to_json, "json"),
    "junit": (to_junit, "xml"),
    "gradescope": (to_gradescope, "json"),
}
