"""What was measured, stored as JSON, so that any part can be measured again on its own."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from tests.benchmarks.measure import ROOT, TINY, all_cores

FILE = Path(os.environ.get("BENCH_FIGURES", ROOT / ".benchmarks" / ("tiny.json" if TINY else "figures.json")))
PACKAGES = ("torch", "torchvision", "numpy", "pillow")

LOAD = os.getloadavg()[0]
"""Load average of the last minute: how busy the machine was before measuring started."""

Samples = Mapping[str, Sequence[float]]


def save(group: str, samples: Samples, rounds: Sequence[Any] = (), **about: Any) -> None:
    """Replace the samples of a group.

    Args:
        group: what was measured together.
        samples: the values of each figure, one per round; medians are added here.
        rounds: what the programs reported, from which the samples were computed.
        about: anything worth recording with them.
    """
    known = load()
    known[group] = {
        "about": {**surroundings(), **about},
        "figures": {
            name: {"median": median(values), "samples": list(values)}
            for name, values in samples.items()
            if values
        },
        "rounds": list(rounds),
    }
    FILE.parent.mkdir(exist_ok=True)
    fresh = FILE.with_suffix(".new")
    fresh.write_text(json.dumps(known, indent=1), "utf-8")
    fresh.replace(FILE)


def load() -> dict[str, Any]:
    return json.loads(FILE.read_text("utf-8")) if FILE.is_file() else {}


def surroundings() -> dict[str, Any]:
    """Machine, versions, date and commit."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES]
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "commit": _git("rev-parse", "--short", "HEAD")
        + ("+" if _git("diff", "--stat", "HEAD", "finetune") else ""),
        "machine": f"{_processor()}, {len(all_cores()) or os.cpu_count()} of {os.cpu_count()} cores, "
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "versions": f"Python {platform.python_version()}, {', '.join(versions)}",
        "load": LOAD,
    }


def _git(*words: str) -> str:
    """Its output; nothing where there is no git or no repository."""
    with suppress(OSError):
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True).stdout.strip()
    return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def trained(run: Mapping[str, Any], variants: str) -> float:
    """Training seconds of some variants, all epochs."""
    return sum(sum(run["variants"][v]["train_seconds"]) for v in variants)


def waited(run: Mapping[str, Any], variants: str) -> float:
    """Share of the training seconds of some variants that was spent waiting for images."""
    return sum(sum(run["variants"][v]["data_wait_seconds"]) for v in variants) / trained(run, variants)


def c_over_b(run: Mapping[str, Any]) -> float:
    """Training seconds of C over B's, a median epoch of each: a cache that is being filled does not count."""
    logs = run["variants"]
    return median(logs["C"]["train_seconds"]) / median(logs["B"]["train_seconds"])


def whole_jobs(rounds: Sequence[Mapping[str, Any]], alone_bytes: int) -> Samples:
    """Figures of rounds that ran ours with an empty store, theirs, and ours in fp32 with a full store.

    Those of ours are named by its precision: `auto` or `fp32`, which may be left out. So may `tuned`: ours
    with trials, also with an empty store.
    """
    samples: dict[str, list[float]] = {}
    for one in rounds:
        plain = one["theirs"]
        figures = {
            "theirs_seconds": plain["whole_seconds"],
            "wait_theirs": waited(plain, "AB"),
            "decode_cold_seconds": one["auto"]["decode_seconds"],
            "memory_theirs": plain["peak_memory_bytes"] - alone_bytes,
            "c_over_b_theirs": c_over_b(plain),
            **{f"accuracy_theirs_{v}": plain["variants"][v]["test_accuracy"] for v in "ABC"},
        }
        if "fp32" in one:
            figures["decode_warm_seconds"] = one["fp32"]["decode_seconds"]
        if "tuned" in one:
            tuned = one["tuned"]
            figures["tuned"] = plain["whole_seconds"] / tuned["whole_seconds"]
            figures["tuned_seconds"] = tuned["whole_seconds"]
            figures |= {f"tuned_accuracy_{v}": tuned["variants"][v]["test_accuracy"] for v in "ABC"}
        for precision in {"auto", "fp32"} & set(one):
            ours = one[precision]
            compared = {
                "whole": plain["whole_seconds"] / ours["whole_seconds"],
                "seconds": ours["whole_seconds"],
                "wait": waited(ours, "AB"),
                "memory": ours["peak_memory_bytes"] - alone_bytes,
                "c_over_b": c_over_b(ours),
            }
            for v in "ABC":
                compared[f"train_{v}"] = trained(plain, v) / trained(ours, v)
                compared[f"evaluate_{v}"] = _evaluated(plain, v) / _evaluated(ours, v)
                compared[f"accuracy_{v}"] = ours["variants"][v]["test_accuracy"]
                compared[f"gain_{v}"] = compared[f"accuracy_{v}"] - figures[f"accuracy_theirs_{v}"]
            figures |= {f"{name}_{precision}": value for name, value in compared.items()}
        for name, value in figures.items():
            samples.setdefault(name, []).append(value)
    return samples


def _evaluated(run: Mapping[str, Any], variant: str) -> float:
    return sum(run["variants"][variant]["evaluation_seconds"])


def cached_prefix(rounds: Sequence[Mapping[str, Any]]) -> Samples:
    """Figures of rounds that ran theirs, ours with one view of each image, and two seeds of ours with all."""
    return {
        "train_C_one": [trained(r["theirs"], "C") / trained(r["one"], "C") for r in rounds],
        "train_C_first": [trained(r["theirs"], "C") / trained(_seed(r["all"], 0), "C") for r in rounds],
        "train_C_second": [trained(r["theirs"], "C") / trained(_seed(r["all"], 1), "C") for r in rounds],
        "c_over_b_one": [c_over_b(r["one"]) for r in rounds],
        "c_over_b_first": [c_over_b(_seed(r["all"], 0)) for r in rounds],
        "c_over_b_second": [c_over_b(_seed(r["all"], 1)) for r in rounds],
        "accuracy_C_one": [r["one"]["variants"]["C"]["test_accuracy"] for r in rounds],
        "accuracy_C_first": [r["all"]["seeds"][0]["C"]["test_accuracy"] for r in rounds],
    }


def _seed(run: Mapping[str, Any], number: int) -> Mapping[str, Any]:
    return {"variants": run["seeds"][number]}
