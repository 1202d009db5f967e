"""What `c-faster` says of real jobs: of A in the place of C, which does B's work, and of C itself.

    python -m tests.benchmarks.equal_speed RUN...

Each RUN is the run folder of an honest job on a CPU. Each seed counts by itself, and all seeds together.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections import Counter
from pathlib import Path

from grader.checks.speed import c_faster
from grader.evidence.gathered import Evidence
from grader.submission.load import load
from grader.submission.record import Results, Run


def jobs(results: Results) -> list[list[int]]:
    """The seeds to judge together: each alone, and all of them if there are several."""
    seeds = sorted(results.seeds)
    return [[seed] for seed in seeds] + ([seeds] if len(seeds) > 1 else [])


def status(results: Results, seeds: list[int], as_c: str) -> str:
    """What the grader says if `as_c` stands for C; A is then no control for itself."""

    def renamed(run: Run) -> Run:
        return dataclasses.replace(run, variant="C") if run.variant == as_c else run

    kept = [run for run in results.runs if run.seed in seeds and run.variant in ("B", as_c, "A")]
    return str(c_faster(Evidence(dataclasses.replace(results, runs=tuple(map(renamed, kept))))).status)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    found: Counter[tuple[str, str, str]] = Counter()
    for folder in parser.parse_args().runs:
        results = load(folder).results
        for seeds in jobs(results) if results.device == "cpu" else ():
            for as_c in "AC":
                kind = "one seed" if len(seeds) == 1 else "several seeds"
                found[as_c, kind, status(results, seeds, as_c)] += 1
    for (as_c, kind, name), n in sorted(found.items()):
        print(f"{as_c} in the place of C, {kind}: {name} {n}")  # noqa: T201


if __name__ == "__main__":
    main()
