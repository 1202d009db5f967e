"""What MkDocs does to pages that are written to be read in the repository, too."""

from __future__ import annotations

import re
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)\s]+\)")
"""A link out of docs/: to a file of the repository, which is not part of the site."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Leave the text of links to files outside the site: where the repository is, the site need not know."""
    return OUTSIDE.sub(r"\1", markdown)
