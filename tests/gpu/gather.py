"""Gather what a machine with a GPU but without network lacks: wheels, photos, and a script that unpacks them.

    python -m tests.gpu.gather FOLDER [--python 3.12] [--data DATA]

Torch, torchvision, NumPy, SciPy, scikit-learn and Pillow must be there already: they are large, and a torch
that fits the GPU's driver has been chosen there. The pretrained weights are part of the source tree, which
travels along.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
PHOTOS = "flowers-102"
LIMIT = 60_000_000
"""Bytes of source tree and gathered files together."""

PROVIDED = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "pillow")
TESTING = ("pytest>=8.3", "hypothesis>=6.120", "pytest-benchmark>=5.1")
ALONE = ("captum>=0.8",)
"""Without what it depends on, which is large: tests of what needs that are skipped where it is absent."""

GLIBC = ("2_28", "2_17", "2_12", "2_5")


def required() -> list[str]:
    """What finetune and its tests need beyond what is provided."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["train"], *TESTING]
    return [line for line in wanted if re.split(r"[<>=\[ ]", line)[0] not in PROVIDED]


def download(folder: Path, python: str) -> None:
    """Wheels for a Python version on Linux with an x86-64 processor.

    Raises:
        subprocess.CalledProcessError: pip has said why.
    """
    platforms = [word for glibc in GLIBC for word in ("--platform", f"manylinux_{glibc}_x86_64")]
    platforms += ["--platform", "manylinux2014_x86_64"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", *platforms]
    command += ["--python-version", python, "--implementation", "cp", "--dest", str(folder)]
    for wanted in (required(), ["--no-deps", *ALONE]):
        subprocess.run([*command, *wanted], check=True)


def size(paths: list[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())


def main() -> None:
    """Gather and say how large all is."""
    parser = argparse.ArgumentParser("python -m tests.gpu.gather", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="Python version of the machine with the GPU")
    parser.add_argument("--data", type=Path, default=DATA, help=f"folder that holds {PHOTOS}")
    options = parser.parse_args()
    if not (options.data / PHOTOS).is_dir():
        parser.error(f"{options.data} must hold {PHOTOS}, but it does not; name another folder with --data.")
    if options.folder.exists() and any(options.folder.iterdir()):
        parser.error(f"{options.folder} must be new or empty, but it has content; name another folder.")
    wheels = options.folder / "wheels"
    wheels.mkdir(parents=True)
    try:
        download(wheels, options.python)
    except subprocess.CalledProcessError:
        parser.exit(1, "pip could not download everything; its own words are above.\n")
    with tarfile.open(options.folder / "photos.tar.gz", "w:gz") as archive:
        archive.add(options.data / PHOTOS, f"data/{PHOTOS}")
    shutil.copy(Path(__file__).with_name("install"), options.folder / "install")
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    source = size([ROOT / name for name in listed.stdout.split("\0") if name])
    gathered = size([*options.folder.rglob("*")])
    files = [*wheels.iterdir()]
    sys.stdout.write(
        f"{len(files)} wheels ({size(files) / 1e6:.1f} MB) and photos, {gathered / 1e6:.1f} MB; with "
        f"the source tree and its weights {(gathered + source) / 1e6:.1f} of at most {LIMIT / 1e6:.0f} MB.\n"
    )
    if gathered + source > LIMIT:
        parser.exit(1, "That is too much for the machine; leave something out.\n")


if __name__ == "__main__":
    main()
