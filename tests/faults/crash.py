"""Kill an experiment at random instants, again and again, and compare what it ends with.

Run as `python -m tests.faults.crash FOLDER KILLS SEED`; the last line is a JSON object of figures.
One process imports everything and forks a child for each attempt, so an attempt costs no imports; the child
runs the experiment as the command line does and dies by SIGKILL. Every third kill waits for a file that is
half written. A checkpoint is written after every step, far more often than in earnest.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from finetune.config.presets import load_preset
from finetune.network.weights import state_in
from finetune.run import environment, saving
from finetune.run.experiment import run_experiment
from finetune.system.signals import StopRequest
from grader.reading.schema import schema_problems
from tests.builders.config import tiny_config
from tests.builders.runs import RecordingReporter
from tests.compare_runs import file_digests, without_times
from tests.machine import use_one_core


def readable(out: Path) -> None:
    """Fail if any file of a run folder that bears its final name is not whole."""
    if (out / "config.toml").exists():
        load_preset(str(out / "config.toml"))
    if (out / "results.json").exists():
        record = json.loads((out / "results.json").read_text("utf-8"))
        assert not list(schema_problems(record))
        for run in record["runs"]:
            for artifact in run["artifacts"].values():
                content = (out / artifact["path"]).read_bytes()
                assert hashlib.sha256(content).hexdigest() == artifact["sha256"]
    for path in out.rglob("*.safetensors"):
        state_in(path.read_bytes(), path)


def fork(work: Callable[[], object]) -> int:
    """The id of a new process that does the work; it ends with 0, or with 1 and a traceback."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def ended(child: int) -> bool:
    """Whether a child has ended by itself; anything but success is an error."""
    pid, status = os.waitpid(child, os.WNOHANG)
    assert pid == 0 or status == 0, f"the attempt ended with status {status}"
    return pid != 0


def half_written(out: Path) -> bool:
    """Whether a file is being written, or was when its process died."""
    return any(out.rglob("*.partial"))


def crash(folder: Path, kills: int, seed: int, weights: str) -> dict[str, Any]:
    """Figures of an experiment killed that many times; an AssertionError if anything is lost."""
    rng = random.Random(seed)  # noqa: S311 - instants, not secrets
    config = tiny_config(weights=weights)
    folder.mkdir(parents=True)
    started = time.monotonic()
    child = fork(lambda: run_experiment(config, folder / "whole", RecordingReporter(), StopRequest()))
    while not ended(child):
        time.sleep(0.01)
    duration = time.monotonic() - started
    expected = without_times(json.loads((folder / "whole" / "results.json").read_text("utf-8")))
    figures = {"kills": 0, "kills_in_a_write": 0, "kills_aimed_at_a_write": 0, "finished_and_equal": 0}
    figures |= {"attempts": 0, "resumed": 0, "results_lost": 0}
    number = 0
    while figures["kills"] < kills or number > figures["finished_and_equal"]:
        out = folder / f"run{figures['finished_and_equal']}"
        number = figures["finished_and_equal"] + 1
        resume = (out / "config.toml").is_file()
        before = len(_runs(out))
        child = fork(
            lambda out=out, resume=resume: run_experiment(
                config, out, RecordingReporter(), StopRequest(), resume
            )
        )
        figures["attempts"] += 1
        figures["resumed"] += resume
        until = time.monotonic() + rng.uniform(0, duration)
        aimed = figures["kills"] % 3 == 2
        done = False
        while not (done := ended(child)):
            late = time.monotonic() >= until and figures["kills"] < kills
            if late and (not aimed or half_written(out)):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                break
            time.sleep(0.0005)
        readable(out)
        assert len(_runs(out)) >= before, "a finished variant was lost"
        if done:
            found = json.loads((out / "results.json").read_text("utf-8"))
            assert without_times(found) == expected
            assert file_digests(out) == file_digests(folder / "whole")
            figures["finished_and_equal"] += 1
        else:
            figures["kills"] += 1
            figures["kills_in_a_write"] += half_written(out)
            figures["kills_aimed_at_a_write"] += aimed
    return {**figures, "uninterrupted_seconds": duration, "seconds": time.monotonic() - started}


def _runs(out: Path) -> list[Any]:
    try:
        return list(json.loads((out / "results.json").read_text("utf-8"))["runs"])
    except FileNotFoundError:
        return []


def main(folder: str, kills: str, seed: str) -> None:
    """Run it as the module's documentation says."""
    torch.set_num_threads(1)
    gc.freeze()  # what is imported is no garbage, and each child would look for some in it
    saving.CHECKPOINT_SECONDS = 0.0
    environment.SOURCE_TREE = Path("/nonexistent")
    print(json.dumps(crash(Path(folder), int(kills), int(seed), "bundled")))  # noqa: T201 - its answer


if __name__ == "__main__":
    use_one_core()
    main(*sys.argv[1:])
