"""What was checked and measured on a GPU: one JSON file; each entry is stored as soon as it is known."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from finetune.system.host import driver_version
from tests.benchmarks import figures
from tests.benchmarks.measure import ROOT

DEVICE = os.environ.get("GPU_DEVICE", "cuda")
"""`cpu` runs everything dry: the same code, with a job so small that its figures mean nothing."""

DRY = DEVICE == "cpu"
FOLDER = Path(os.environ.get("GPU_FOLDER", ROOT / ".benchmarks" / ("gpu-dry" if DRY else "gpu")))
FILE = FOLDER / "gpu.json"


def load() -> dict[str, Any]:
    return json.loads(FILE.read_text("utf-8")) if FILE.is_file() else {}


def save(name: str, entry: Any) -> None:
    """Add or replace an entry; a crash leaves the old file or the new one."""
    known = {**load(), name: entry}
    FILE.parent.mkdir(parents=True, exist_ok=True)
    fresh = FILE.with_suffix(".new")
    fresh.write_text(json.dumps(known, indent=1), "utf-8")
    fresh.replace(FILE)


@functools.cache
def surroundings() -> dict[str, Any]:
    """GPU, driver, machine, versions, date and commit."""
    import torch

    about = {**figures.surroundings(), "device": DEVICE, "cuda": torch.version.cuda}
    if DEVICE == "cuda" and torch.cuda.is_available():
        facts = torch.cuda.get_device_properties(0)
        about["gpu"] = f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB"
        about["driver"] = driver_version() or _asked_driver()
        about["cudnn"] = torch.backends.cudnn.version()
    return about


def _asked_driver() -> str:
    """The driver's version as nvidia-smi tells it, for machines without /proc/driver."""
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"
