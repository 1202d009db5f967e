"""The pictures of the docs and the outputs of the example notebook, made anew with this version.

    python -m tests.docs.pictures [verdict] [curves] [notebook] [--data-root DATA]

Without a name, all of them. Trains what the pages say that they show: the smoke preset, and Flowers-102 in
DATA/flowers-102 twice, which takes half an hour of one core if its photos have 64 pixels. Runs, and the
packages from npm that drive Chromium, go to build/pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

from tests.browser.programs import installed
from tests.docs.markdown import ROOT

BUILD = ROOT / "build" / "pictures"
IMAGES = ROOT / "docs" / "images"
NOTEBOOK = ROOT / "examples" / "flowers.ipynb"
SMOKE = ("--preset", "smoke")
FLOWERS = (
    *("--dataset", "flowers102", "--weights", "bundled", "--image-size", "64", "--split", "official"),
    *("--epochs", "10", "--lr", "0.02"),
)
OF_OTHERS = ("photo_of(",)
"""A cell with this shows photos that are not ours to pass on."""


def report_of(name: str, *options: str) -> Path:
    """Train a run of that name, unless it is there, and write its report anew."""
    run = BUILD / "runs" / name
    finetune = [sys.executable, "-m", "finetune"]
    if not (run / "results.json").is_file():
        subprocess.run([*finetune, "train", *options, "--out", str(run)], check=True)
    subprocess.run([*finetune, "report", str(run)], check=True)
    return run / "report.html"


def shoot(page: Path, out: Path, part: str | None, width: int, height: int) -> None:
    """A picture of a page, or of the part that a selector names, in 256 colors."""
    tools = BUILD / "browser"
    tools.mkdir(parents=True, exist_ok=True)
    asked = {
        "chromium": installed(tools),
        "page": str(page),
        "part": part,
        "width": width,
        "height": height,
        "out": str(out),
    }
    subprocess.run(["node", "shoot.mjs", json.dumps(asked)], cwd=tools, check=True, timeout=120)
    Image.open(out).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(out, optimize=True)


def verdict() -> None:
    """The top of the smoke preset's report, for the quick start."""
    shoot(report_of("smoke", *SMOKE), IMAGES / "verdict.png", None, 860, 640)


def curves(data_root: Path) -> None:
    """The curves of a report on Flowers-102, for the page on reports and the one on results."""
    page = report_of("flowers102", *FLOWERS, "--data-root", str(data_root))
    shoot(page, IMAGES / "report.png", "#curves", 1208, 900)


def notebook(data_root: Path) -> None:
    """The notebook's outputs, without photos and without names of folders outside the project."""
    folder = BUILD / "notebook"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "flowers-102").symlink_to((data_root / "flowers-102").resolve())
    found = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(found, timeout=None, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in found.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code" and any(name in cell.source for name in OF_OTHERS):
            cell.outputs = [out for out in cell.outputs if "image/png" not in out.get("data", {})]
    text = nbformat.writes(found).replace(f"{ROOT}{os.sep}", "")
    NOTEBOOK.write_text(f"{text.rstrip()}\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="verdict, curves or notebook; default: all")
    parser.add_argument("--data-root", type=Path, default=ROOT.parent / "shared" / "data")
    options = parser.parse_args()
    makers = {
        "verdict": verdict,
        "curves": lambda: curves(options.data_root),
        "notebook": lambda: notebook(options.data_root),
    }
    if unknown := set(options.names) - makers.keys():
        parser.error(f"no picture is called {', '.join(sorted(unknown))}: {', '.join(makers)}")
    for name in options.names or makers:
        makers[name]()


if __name__ == "__main__":
    main()
