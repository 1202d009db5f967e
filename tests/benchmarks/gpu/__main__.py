"""Measure what has not been measured, within a time limit, and write the page.

    python -m tests.benchmarks.gpu [--data FOLDER] [--seconds 510]

Each measurement is stored in `record.FILE` when it is done. When the next one would not fit into the time
that is left, the command ends; call it again to continue. `GPU_DEVICE=cpu` runs it dry; its page is no part
of the documentation.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks import measure
from tests.benchmarks.gpu import page, record
from tests.benchmarks.measure import DATA, ours, run, theirs

EPOCHS, ROUNDS = 30, 3
CACHE = record.FOLDER / "cache"
"""Decoded images; a fresh machine decodes them again."""


@dataclass(frozen=True)
class Measurement:
    """Something to measure once.

    Args:
        name: in the record; the rounds of one thing begin alike.
        seconds: that it may take, if nothing is known yet.
        take: measures it, within the seconds that it is given.
    """

    name: str
    seconds: float
    take: Callable[[float], Any]


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def arguments(data: Path) -> list[str]:
    """Flowers-102, official split, 224 px, as all programs take it; dry, so small that it means nothing."""
    words = f"--dataset flowers102 --data-root {data} --split official --batch-size 64 --weights bundled"
    if record.DRY:
        return [*words.split(), "--image-size", "32", "--epochs", "2", "--subset", "1"]
    return [*words.split(), "--image-size", "224", "--epochs", str(EPOCHS)]


def measurements(data: Path) -> list[Measurement]:
    """All of them, the most telling first."""
    words = arguments(data)
    workers = ["--workers", str(len(measure.all_cores()) or 4)]

    def of_ours(*more: str) -> Callable[[float], Any]:
        def take(seconds: float) -> Any:
            with tempfile.TemporaryDirectory() as folder:
                return ours([*words, *more], CACHE, Path(folder) / "run", record.DEVICE, seconds)

        return take

    def of_theirs(program: str) -> Callable[[float], Any]:
        return lambda seconds: theirs(program, [*words, *workers], record.DEVICE, seconds)

    def steps(seconds: float) -> Any:
        command = ["-m", "tests.benchmarks.gpu.steps", *words, "--device", record.DEVICE]
        output, _ = run(command, seconds, XDG_CACHE_HOME=str(CACHE))
        return json.loads(output.splitlines()[-1])

    found = [Measurement("steps", 90, steps)]
    for number in range(1 if record.DRY else ROUNDS):
        seed = ("--seed", str(number))
        found += [
            Measurement(f"ours/{number}", 60, of_ours(*seed)),
            Measurement(f"cached/{number}", 40, of_ours(*seed, "--variants", "C", "--cache-views", "1")),
            Measurement(f"expert/{number}", 150, of_theirs("expert")),
            Measurement(f"tutorial/{number}", 300, of_theirs("tutorial")),
        ]
    return found


def decode(data: Path) -> None:
    """Fill the cache, so that all jobs find a prepared store; what it took is recorded where it was empty."""
    before = set(CACHE.rglob("*"))
    with tempfile.TemporaryDirectory() as folder:
        words = [*arguments(data), "--variants", "C"]
        words[words.index("--epochs") + 1] = "1"
        found = ours(words, CACHE, Path(folder) / "run", record.DEVICE)
    if not before:
        record.save("decode", {"about": record.surroundings(), "found": found})


def expected_seconds(one: Measurement, known: Mapping[str, Any]) -> float:
    """What a round took before, or else what it may take."""
    kind = one.name.partition("/")[0]
    alike = [entry for name, entry in known.items() if name.partition("/")[0] == kind]
    took = [entry["seconds"] for entry in alike if "seconds" in entry]
    return max(took, default=one.seconds)


def settled(name: str, known: Mapping[str, Any]) -> bool:
    """Whether there is nothing more to be had; what failed is tried again."""
    return name in known and "failed" not in known[name]


def measure_all(todo: list[Measurement], limit: float, began: float) -> bool:
    """Take measurements until all are there (True) or the next would not fit into the limit (False)."""
    for one in todo:
        known = record.load()
        if settled(one.name, known):
            continue
        left = limit - (time.perf_counter() - began)
        if left < expected_seconds(one, known):
            wanted = expected_seconds(one, known)
            say(f"{one.name} may need {wanted:.0f} s and {left:.0f} s are left: call again.")
            return False
        started = time.perf_counter()
        try:
            entry = {"found": one.take(left)}
        except subprocess.TimeoutExpired:
            entry = {"unfinished_after_seconds": left}
        except RuntimeError as error:  # one program's failure must not keep the others from being measured
            entry = {"failed": str(error)}
            say(str(error))
        entry |= {"seconds": time.perf_counter() - started, "about": record.surroundings()}
        record.save(one.name, entry)
        say(f"{one.name}: {entry['seconds']:.0f} s")
    return True


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.gpu", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--data", type=Path, default=DATA, help="folder that holds flowers-102")
    parser.add_argument("--seconds", type=float, default=510, help="time limit")
    parser.add_argument("--page", action="store_true", help="only write the page")
    options = parser.parse_args()
    began, failed = time.perf_counter(), list[str]()
    if not options.page:
        if not (measure.ROOT / options.data / "flowers-102").is_dir():
            parser.error(
                f"{options.data} must hold flowers-102, but it does not; name another folder with --data."
            )
        import torch

        if not (record.DRY or torch.cuda.is_available()):
            parser.error(
                "there must be a GPU that PyTorch can use, but there is none; GPU_DEVICE=cpu runs it dry."
            )
        todo = measurements(options.data)
        if not all(settled(one.name, record.load()) for one in todo):
            decode(options.data)
        complete = measure_all(todo, options.seconds, began)
        failed = [name for name, entry in record.load().items() if "failed" in entry]
        if failed:
            say(f"Failed: {', '.join(failed)}; call again to try them again.")
        elif complete:
            say("All is measured.")
        else:
            say("Not all is measured yet.")
    written = page.write(record.load(), record.FOLDER if record.DRY else None)
    say(f"Written: {', '.join(map(str, written))}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
