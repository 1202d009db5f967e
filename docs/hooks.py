"""What MkDocs does to pages that are written to be read in the repository, too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)\s]+\)")
"""A link out of docs/: to a file of the repository, which is not part of the site."""

ITEM = re.compile(r"(?:\d+\.|\*|-) +(?=\S)")
"""The start of an item of a list."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Leave the text of links to files outside the site: where the repository is, the site need not know."""
    return "\n".join(four_spaces(OUTSIDE.sub(r"\1", markdown).split("\n")))


def four_spaces(lines: list[str]) -> Iterator[str]:
    """Indent what belongs to an item of a list by four spaces, as Python-Markdown wants it.

    GitHub wants it below the item's text, two or three spaces in.
    """
    missing = 0
    for line in lines:
        item = ITEM.match(line)
        if item:
            missing = 4 - item.end()
        elif line and not line.startswith(" "):
            missing = 0
        belongs = missing > 0 and line.startswith((4 - missing) * " ")
        yield missing * " " + line if belongs else line
