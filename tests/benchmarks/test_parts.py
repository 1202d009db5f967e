"""The parts that make up the whole: start, decoding, augmentation, a step, and growth."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture

from tests.benchmarks import figures, measure
from tests.benchmarks.measure import DATA, ROOT, ROUNDS, TINY, ours
from tests.machine import real_data

SYNTHETIC = ROOT / ".benchmarks" / "synthetic"
"""Made once and kept: writing 15,000 files takes a minute."""


@pytest.mark.parametrize("program", ["finetune", "grader"])
def test_help_needs_no_torch(program: str) -> None:
    code = (
        f"import sys; from {program}.cli import main; sys.argv = ['{program}', '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'torchvision', 'sklearn', 'jinja2'} & set(sys.modules)\n"
        "sys.exit(f'loaded {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


CLOCK = """
import resource, subprocess, sys, time
began = time.perf_counter()
subprocess.run([sys.executable, *sys.argv[1:]], stdout=subprocess.DEVNULL, check=True)
seconds = time.perf_counter() - began
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(seconds, used.ru_utime + used.ru_stime)
"""


@pytest.mark.parametrize("program", ["finetune", "grader"])
def test_start(program: str, small: bool, benchmark: BenchmarkFixture) -> None:
    samples: dict[str, list[float]] = {"wall_seconds": [], "cpu_seconds": []}

    def start() -> None:
        wall, cpu = map(float, measure.run(["-c", CLOCK, "-m", program, "--help"])[0].split())
        samples["wall_seconds"].append(wall)
        samples["cpu_seconds"].append(cpu)

    benchmark.pedantic(start, rounds=1 if small else 3 * ROUNDS)
    if not small:
        figures.save(f"start/{program}", samples)


AS_OURS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
"""What finetune's command line sets."""


def part(words: tuple[str, ...], small: bool) -> Mapping[str, list[float]]:
    """Samples of a part: in a process with all the cores, or here where only its working matters."""
    if not small:
        command = ["-m", "tests.benchmarks.parts", *words]
        found: dict[str, list[float]] = json.loads(measure.run(command, **AS_OURS)[0])
        return found
    from tests.benchmarks import parts  # loads torch, which the tests that start programs must not

    name, *numbers = words
    return parts.PARTS[name](*map(int, numbers))


RATIOS = {
    "step": {"ratio": ("nchw", "channels_last"), "bf16_ratio": ("channels_last", "bf16")},
    "forward": {f"{p}_ratio": (f"{p}_plain", f"{p}_fused") for p in ("fp32", "bf16")},
    "augment": {"ratio": ("theirs", "ours")},
}
"""By part, the ratios to take in each round; those in bf16 only where a processor has it."""


@pytest.mark.parametrize(
    ("name", "n", "image_size"),
    [(name, n, size) for name in RATIOS for size, n in ((64, 64), (224, 64 if name == "augment" else 32))],
)
def test_part(name: str, n: int, image_size: int, small: bool, benchmark: BenchmarkFixture) -> None:
    words = (name, "4", "32", "1") if small or TINY else (name, str(n), str(image_size), "10")
    samples = dict(benchmark.pedantic(part, (words, small), rounds=1))
    for ratio, (over, under) in RATIOS[name].items():
        if over in samples and under in samples:
            samples[ratio] = [a / b for a, b in zip(samples[over], samples[under], strict=True)]
    assert all(value > 0 for values in samples.values() for value in values)
    if not small:
        figures.save(f"{name}/{image_size}", samples)


@pytest.mark.usefixtures("at_length")
def test_store(tmp_path: Path, benchmark: BenchmarkFixture) -> None:
    """Photos decoded by one thread and by two, found decoded, and decoded in every epoch."""
    real_data("hymenoptera")
    if not measure.knows("--store"):
        pytest.skip("this version of finetune has no --store")
    words = f"--dataset imagefolder:{DATA / 'hymenoptera'} --image-size 64 --epochs 3 --weights bundled"
    words += " --subset 20" if TINY else ""
    kinds = {
        "one": ("one", "--workers 1 --store disk"),
        "two": ("two", "--workers 2 --store disk"),
        "warm": ("two", "--workers 2 --store disk"),
        "off": ("off", "--workers 2 --store off"),
    }
    rounds: list[dict[str, Any]] = []

    def measure_round() -> None:
        place = tmp_path / str(len(rounds))
        rounds.append(
            {
                kind: ours(
                    [*words.split(), "--variants", "C", *rest.split()], place / f"cache-{cache}", place / kind
                )
                for kind, (cache, rest) in kinds.items()
            }
        )
        samples = {
            f"{kind}_{name}": [one[kind][name] for one in rounds]
            for kind in kinds
            for name in ("decode_seconds", "whole_seconds")
        }
        samples |= {
            f"{kind}_train_seconds": [figures.trained(one[kind], "C") for one in rounds] for kind in kinds
        }
        figures.save("store", samples, rounds, arguments=(*words.split(), "--variants", "C"))

    benchmark.pedantic(measure_round, rounds=ROUNDS)


SIZES = {"n_images": 1000, "epochs": 1, "image_size": 32}
GROWTH = [
    {**SIZES, name: value}
    for name, values in {
        "n_images": (1000, 2000, 4000, 8000),
        "epochs": (2, 4, 8),
        "image_size": (64, 128, 224),
    }.items()
    for value in values
]


def synthetic(folder: Path, n_images: int, n_classes: int = 10) -> None:
    """An image folder of smooth random JPEG files, 256 x 192 pixels, none like another."""
    chance = np.random.default_rng(n_images)
    for number in range(n_images):
        place = folder / f"class-{number % n_classes}"
        place.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(chance.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        coarse.resize((256, 192), Image.Resampling.BICUBIC).save(place / f"{number:05d}.jpg", quality=85)


@pytest.mark.usefixtures("at_length")
@pytest.mark.parametrize("sizes", GROWTH, ids=lambda s: "-".join(map(str, s.values())))
def test_growth(sizes: dict[str, int], tmp_path: Path, benchmark: BenchmarkFixture) -> None:
    """One whole job on synthetic images: how seconds and memory grow with what is asked for."""
    if TINY:
        sizes = {**sizes, "n_images": sizes["n_images"] // 20, "image_size": min(sizes["image_size"], 64)}
    folder = SYNTHETIC / str(sizes["n_images"])
    if not folder.is_dir():
        begun = folder.with_name(f"{folder.name}.new")
        shutil.rmtree(begun, ignore_errors=True)
        synthetic(begun, sizes["n_images"])
        begun.rename(folder)
    words = f"--dataset imagefolder:{folder.relative_to(ROOT)} --weights bundled"
    words += f" --epochs {sizes['epochs']} --image-size {sizes['image_size']}"
    job = benchmark.pedantic(ours, (words.split(), tmp_path / "cache", tmp_path / "run"), rounds=1)
    samples = {
        "whole_seconds": [job["whole_seconds"]],
        "decode_seconds": [job["decode_seconds"]],
        "peak_memory_bytes": [job["peak_memory_bytes"]],
        "epoch_seconds": [figures.trained(job, "ABC") / sizes["epochs"]],
    }
    figures.save("growth/" + "-".join(map(str, sizes.values())), samples, **sizes, arguments=words.split())
