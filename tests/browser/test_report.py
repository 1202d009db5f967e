"""The report in a real browser: wide, narrow, light, dark, printed, and looked over by axe-core.

Needs Chromium, Node.js and npm: `apt-get install chromium nodejs npm`. The two packages from npm are
installed into pytest's cache, in the versions and with the hashes of package-lock.json. To look at the pages
oneself: `SHOTS=FOLDER pytest tests/browser` leaves screenshots in FOLDER.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from finetune.report.judged import judged
from finetune.report.page import write_report
from tests.browser.programs import MissingProgramError, installed
from tests.builders.reports import HOSTILE, simulated_run
from tests.grader.honest import Size

WIDTHS = (1280, 768, 375)
PAGES = ("hostile", "flowers", "comparison")

pytestmark = pytest.mark.browser


@pytest.fixture(scope="session")
def programs(request: pytest.FixtureRequest) -> tuple[str, Path]:
    """Chromium, and a folder with look.mjs and the packages that it needs."""
    assert request.config.cache is not None
    folder = request.config.cache.mkdir("browser")
    try:
        return installed(folder), folder
    except MissingProgramError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def seen(
    programs: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str, int], dict[str, Any]]:
    """What look.mjs noticed, by page, color scheme and width."""
    chromium, folder = programs
    made = tmp_path_factory.mktemp("pages")
    hostile = simulated_run(made / "run", classes=HOSTILE, images=made / "images")
    flowers = simulated_run(
        made / "flowers",
        Size(102, 1020, 1020, 1020, 6, (0, 1, 2), sketch=True),
        [f"flower number {n}" for n in range(102)],
        made / "flower-images",
    )
    runs = {"hostile": [hostile], "flowers": [flowers], "comparison": [hostile, flowers]}
    pages = {name: made / f"{name}.html" for name in PAGES}
    for name, page in pages.items():
        write_report(judged(runs[name]), page)
    asked = {
        "chromium": chromium,
        "pages": {name: str(page) for name, page in pages.items()},
        "widths": WIDTHS,
        "shots": os.environ.get("SHOTS"),
    }
    done = subprocess.run(
        ["node", "look.mjs", json.dumps(asked)], cwd=folder, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return {(look["name"], look["scheme"], look["width"]): look for look in json.loads(done.stdout)}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_a_page(seen: dict[tuple[str, str, int], dict[str, Any]], page: str, scheme: str, width: int) -> None:
    look = seen[page, scheme, width]
    assert look["requests"] == []
    assert look["messages"] == []
    assert not look["executed"]
    assert look["violations"] == []
    assert look["too_wide"] <= 0, "the page itself scrolls sideways"
    assert look["styled"], "its own policy blocks its style"
    assert look["pictures_missing"] == 0
    assert (look["background"] == "rgb(255, 255, 255)") == (scheme == "light")
    assert look["printed_on"] == "rgb(255, 255, 255)"
