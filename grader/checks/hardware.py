"""Level 1: times that were measured, on hardware that exists."""

from collections import Counter
from collections.abc import Iterator

from grader.evidence.gathered import Evidence
from grader.findings import Finding, Level, counted, from_problems
from grader.submission.record import Results, Run
from grader.submission.resnet18 import GROUPS, multiplications

CORE_FLOPS = {"fp32": 2e12, "bf16": 16e12}
GPU_FLOPS = 20e12 * 500
"""No machine computes more per second. A core of 2025 does 0.3 TFLOP/s in fp32 (two AVX-512 multiply-adds per
cycle at 5 GHz) and 5 in bf16 (AMX), a GPU 2,500 (B200, dense bf16). Winograd's algorithm replaces up to three
of four multiplications, so the bounds are four to six times as high."""
MOST_OF_CORES = 2.0
NO_SECONDS = 1e-3
TICK = 0.05  # seconds; systems count CPU time in ticks of up to 16 ms


def times_possible(evidence: Evidence) -> Finding:
    """The times were measured, and the machine can have been that fast.

    Rule: no epoch trained or evaluated in no time. Not half of two or more training times are equal or whole
    milliseconds (clocks tell nanoseconds, so that one in a million is). Each epoch took at least as long as
    its multiplications take on the recorded device at a rate beyond any hardware: 2 TFLOP/s per CPU core in
    fp32, 16 in bf16, 10,000 per GPU, for each process. Only what every implementation must compute counts:
    a forward and one backward pass of the trained layers, and the forward pass of the others unless their
    outputs are cached. No epoch used more than twice the CPU time that the recorded cores have in its
    wall-clock time (a container's quota can be exceeded for a moment); on a CPU, none of over 0.1 seconds
    used none (version 1 of the results did not record it).

    Source: vendors' peak rates; A. Lavin and S. Gray, Fast algorithms for convolutional neural networks
    (2016); He et al. (2016), table 1 (1.8 billion multiply-adds per image at 224 pixels).
    """
    results = evidence.results
    problems: dict[str, list[str]] = {run.name: list(_too_fast(evidence, run)) for run in results.runs}
    seconds = [epoch.train_seconds for run in results.runs for epoch in run.epochs]
    most = Counter(seconds).most_common(1)
    n_round = sum(abs(s - round(s, 3)) < 1e-12 * max(1.0, s) for s in seconds)
    if len(seconds) > 1 and most[0][1] * 2 >= max(len(seconds), 3):
        equal = f"{most[0][1]} of {len(seconds)} epochs have the same training time, {most[0][0]:g} s"
        problems["all epochs"] = [f"{equal}: these were not measured."]
    elif len(seconds) > 1 and n_round * 2 >= max(len(seconds), 3):
        whole = f"{n_round} of {len(seconds)} training times are whole milliseconds"
        problems["all epochs"] = [f"{whole}: these were not measured."]
    return from_problems(problems, Level.FILE, "All times are possible on the recorded machine.")


def _too_fast(evidence: Evidence, run: Run) -> Iterator[str]:
    results = evidence.results
    rate, machine = _fastest(results)
    size = results.image_size
    work = multiplications(size, len(results.classes))
    trained = sum(work[group] for group in run.trained_groups)
    prefix = 0.0
    if results.cache_views is None:
        first = min(GROUPS.index(group) for group in run.trained_groups)
        prefix = sum(work[group] for group in GROUPS[:first])
    for epoch in run.epochs:
        least = 2 * epoch.train.n_samples * (2 * trained + prefix) / rate
        if epoch.train_seconds < least or epoch.train_seconds == 0:
            images = f"{epoch.train.n_samples:,} images of {size} pixels in {epoch.train_seconds:.3g} s"
            yield f"{run.name}, epoch {epoch.epoch}: trained on {images}, faster than {machine} can."
            return
        least = 2 * (epoch.val.n_samples + epoch.test.n_samples) * trained / rate
        if epoch.evaluation_seconds < least or epoch.evaluation_seconds == 0:
            n = epoch.val.n_samples + epoch.test.n_samples
            images = f"{n:,} images in {epoch.evaluation_seconds:.3g} s"
            yield f"{run.name}, epoch {epoch.epoch}: evaluated {images}, faster than {machine} can."
            return
        cores, cpu = results.environment["cpu_cores"], epoch.train_cpu_seconds
        is_none = cpu is not None and cpu <= NO_SECONDS and epoch.train_seconds > 2 * TICK
        if is_none and results.device == "cpu":
            yield f"{run.name}, epoch {epoch.epoch}: no CPU time in {epoch.train_seconds:.3g} s on a CPU."
            return
        if cpu is not None and cpu > MOST_OF_CORES * cores * epoch.train_seconds + TICK:
            spent = f"{cpu:.3g} s of CPU time in {epoch.train_seconds:.3g} s"
            yield f"{run.name}, epoch {epoch.epoch}: {spent}, more than {counted(cores, 'core')} can spend."
            return


def _fastest(results: Results) -> tuple[float, str]:
    """Operations per second that the recorded machine cannot exceed, and the machine in words."""
    if results.device != "cpu":
        return GPU_FLOPS * results.processes, "any GPU"
    cores = results.environment["cpu_cores"]
    return CORE_FLOPS[results.precision] * cores * results.processes, f"any {cores} CPU cores"
