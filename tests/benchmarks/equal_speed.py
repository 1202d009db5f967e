"""Real jobs beside generated load: how often C is called faster, truly equal to B or truly faster.

python -m tests.benchmarks.equal_speed FOLDER --jobs 10    # on one core: taskset -c 1

"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

BUSY = "import time\nwhile True: sum(i * i for i in range(20_000))"
BURSTS = """
import random, time
while True:
    end = time.monotonic() + random.expovariate(1 / {on})
    while time.monotonic() < end:
        sum(i * i for i in range(20_000))
    time.sleep(random.expovariate(1 / {off}))
"""
RISING = """
import time
began = time.monotonic()
while True:
    share = min(0.9, (time.monotonic() - began) / {seconds})
    end = time.monotonic() + 0.1 * share
    while time.monotonic() < end:
        sum(i * i for i in range(2_000))
    time.sleep(0.1 * (1 - share))
"""
LOADS = {
    "none": [],
    "a steady process": [BUSY],
    "short bursts": [BURSTS.format(on=0.5, off=1)],
    "bursts as long as a run": [BURSTS.format(on=4, off=4)],
    "load that rises": [RISING.format(seconds=15)],
    "a process that starts halfway": [f"import time\ntime.sleep({{half}})\n{BUSY}"],
}
EPOCHS = 5


@contextmanager
def loaded(load: str, seconds: float) -> Iterator[None]:
    """Programs that compete for this process's cores, as they inherit its affinity."""
    half = random.uniform(0.2, 0.8) * seconds  # noqa: S311 - no secret
    programs = [subprocess.Popen([sys.executable, "-c", p.replace("{half}", str(half))]) for p in LOADS[load]]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--jobs", type=int, default=10)
    parser.add_argument("--subset", type=int, default=10)
    options = parser.parse_args()
    measure(options.out, options.jobs, options.subset)


def measure(out: Path, n_jobs: int, subset: int) -> None:
    """Train pairs of B and B again, and of B and C, beside each load; a line of JSON for each pair."""
    import torch

    from finetune.cli.options import configure
    from finetune.distributed.world import SingleProcess
    from finetune.run.fit import begin
    from finetune.run.prepare import prepare
    from finetune.training.features import FrozenPrefix
    from finetune.training.trainer import Trainer
    from tests.builders.runs import RecordingReporter

    chosen = configure({"preset": "smoke", "subset": subset, "epochs": EPOCHS, "threads": 1})
    prepared = prepare(chosen, RecordingReporter(), SingleProcess())
    config = prepared.config
    variants = {variant.name: variant for variant in config.variants}

    def epochs_of(name: str, seed: int) -> list[dict[str, Any]]:
        network, _, _ = begin(prepared, variants[name], seed, config.recipe.lr)
        network.to(memory_format=torch.channels_last)
        prefix = FrozenPrefix(network, config.recipe, config.precision)
        trainer = Trainer(
            network, prepared.images, config.recipe, prefix, peak=config.recipe.lr, seed=seed, workers=1
        )
        epochs = trainer.run(lambda _: None).epochs
        times = ("train_seconds", "train_cpu_seconds", "data_wait_seconds")
        return [{name: getattr(epoch, name) for name in times} for epoch in epochs]

    epochs_of("B", 0)  # the first run of a process is slower
    began = time.perf_counter()
    epochs_of("B", 0)
    pair_seconds = 2 * (time.perf_counter() - began)
    with out.open("a") as file:
        for job in range(n_jobs):
            for load in LOADS:
                for second in ("B", "C"):
                    with loaded(load, pair_seconds):
                        pair = {"load": load, "second": second, "job": job}
                        pair |= {"b": epochs_of("B", job), "c": epochs_of(second, job)}
                    file.write(json.dumps(pair) + "\n")
                    file.flush()


def status_of(pairs: list[dict[str, Any]]) -> str:
    """What `c-faster` says of these pairs as a submission's seeds."""
    from grader.checks.speed import c_faster
    from grader.evidence import Evidence

    runs = {
        name: [
            SimpleNamespace(seed=i, epochs=[SimpleNamespace(**epoch) for epoch in pair[name.lower()]])
            for i, pair in enumerate(pairs)
        ]
        for name in "BC"
    }
    results = SimpleNamespace(device="cpu", of=runs.__getitem__)
    return str(c_faster(Evidence(cast("Any", results))).status)


if __name__ == "__main__":
    main()
