"""How much recorded and replayed CPU times of the variants differ on a busy machine: `times-replayed`.

    python -m tests.benchmarks.replay_times train FOLDER    # honest runs and replays, beside other programs
    python -m tests.benchmarks.replay_times rates FOLDER    # the table of docs/detection.md

Every run is compared with every replay of its setting: their work is the same. `--cores` are those used.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from grader.checks.replayed_times import times_replayed
from grader.evidence.gathered import Evidence
from grader.isolated.replay import Passage, Replay
from grader.submission.load import load
from tests.benchmarks.replays import AVX2, FLOWERS, NO_AMX, ROOT

FLOWERS_64 = [*FLOWERS, "--image-size", "64", "--subset", "4", "--epochs", "4"]
SETTINGS = {
    "digits": ["--preset", "smoke"],
    "flowers": [*FLOWERS_64, "--precision", "fp32"],
    "flowers bf16": [*FLOWERS_64, "--precision", "bf16"],
    "flowers cached": [*FLOWERS_64, "--precision", "bf16", "--cache-views", "1"],
}
LOADS = {
    "nothing": "",
    "a loop": "while True: pass",
    "a program that copies memory": "import numpy\na = numpy.ones(2 * 10**7)\nwhile True: a = a[::-1].copy()",
}
"""What uses the same cores meanwhile."""

ELSEWHERE = {"AVX2": AVX2, "without AMX": NO_AMX}


@contextmanager
def beside(load: str, cores: set[int]) -> Iterator[None]:
    """While one process per core runs this program."""
    programs = [[sys.executable, "-c", load]] * len(cores) if load else []
    others = [subprocess.Popen(program) for program in programs]
    for core, other in zip(cores, others, strict=False):
        os.sched_setaffinity(other.pid, {core})
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def finetune(*arguments: str, environ: dict[str, str] | None = None) -> None:
    command = [sys.executable, "-m", "finetune", *arguments]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, **(environ or {})}, timeout=600)


def train(folder: Path, setting: str, n: int, threads: int, cores: set[int]) -> None:
    """Runs and replays of a setting, `n` of each beside each load, in turn."""
    os.sched_setaffinity(0, cores)
    own = folder / f"{setting}, {threads}"
    for i, (name, program) in itertools.product(range(n), LOADS.items()):
        out = own / f"{name}-{i}"
        with beside(program, cores):
            if not (out / "results.json").exists():
                options = [*SETTINGS[setting], "--threads", str(threads), "--quiet"]
                finetune("train", *options, "--out", str(out))
        ways = {name: {}} | (ELSEWHERE if name == "nothing" and i == 0 else {})
        for way, environ in ways.items():
            with beside(program, cores):
                passages = itertools.chain(*(("--passage", f"{v}-seed0", "1", "1") for v in "CAB"))
                found = out / f"{way}.json"
                if not found.exists():
                    options = ["--output", str(found), "--data-root", str(ROOT.parent / "shared/data")]
                    finetune("replay", str(out), *options, *passages, environ=environ)


def spreads(folder: Path) -> Iterator[tuple[str, str, float, float]]:
    """Load of run and replay, the factor by which their ratios differ at most, and that of C and B."""
    runs = {path.parent: load(path.parent).results for path in sorted(folder.glob("*/results.json"))}
    replays = {path: json.loads(path.read_text()) for path in sorted(folder.glob("*/*.json"))}
    for out, results in runs.items():
        for path, found in replays.items():
            if path.name == "results.json":
                continue
            passages = [Passage(p["run"], None, 1, "", p["epochs"]) for p in found["passages"]]
            again = Replay(passages, environment=found["environment"], repeats=found["repeats"])
            finding = times_replayed(replace(Evidence(results), replay=again))
            numbers: Any = finding.numbers
            b, c = (numbers[f"{variant}-seed0_to_replay"] for variant in "BC")
            yield out.name[:-2], path.stem, numbers["largest_factor"], c / b


def rates(folder: Path) -> None:
    """One row for each setting and pair of loads."""
    print("| setting, threads | run beside | replay beside | pairs | median | largest | C to B |")  # noqa: T201
    for setting in sorted(path for path in folder.iterdir() if path.is_dir()):
        found = sorted(spreads(setting))
        for (run, again), rows in itertools.groupby(found, key=lambda row: row[:2]):
            several = list(rows)
            largest, ratios = [row[2] for row in several], [row[3] for row in several]
            print(  # noqa: T201
                f"| {setting.name} | {run} | {again} | {len(several)} | {median(largest):.2f} | "
                f"{max(largest):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("action", choices=["train", "rates"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cores", default="0")
    options = parser.parse_args()
    if options.action == "rates":
        rates(options.folder)
        return
    cores = {int(core) for core in options.cores.split(",")}
    for setting in options.settings.split(","):
        train(options.folder.absolute(), setting, options.rounds, options.threads, cores)


if __name__ == "__main__":
    main()
