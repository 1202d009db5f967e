"""Chromium and the packages from npm that drive it, which look.mjs and shoot.mjs need."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
FILES = ("package.json", "package-lock.json", "look.mjs", "shoot.mjs")


class MissingProgramError(Exception):
    """A browser cannot be driven on this machine; the message says why."""


def installed(folder: Path) -> str:
    """Put the scripts and the packages that they need into a folder; returns Chromium's path.

    Raises:
        MissingProgramError: a program is not there, or npm cannot install the packages.
    """
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if chromium is None or missing:
        raise MissingProgramError(
            f"needs {', '.join([*missing, *([] if chromium else ['chromium'])])} on the PATH"
        )
    for name in FILES:
        shutil.copy(HERE / name, folder)
    done = folder / "node_modules" / ".package-lock.json"
    if not done.exists() or done.stat().st_mtime < (HERE / "package-lock.json").stat().st_mtime:
        npm = subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund"], cwd=folder, capture_output=True, text=True, timeout=180
        )
        if npm.returncode:
            raise MissingProgramError(
                f"npm could not install playwright-core and axe-core: {npm.stderr[-200:]}"
            )
    return chromium
