"""What a trace of torch.profiler says of training steps: the GPU's time, and what the CPU asks of it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

ON_GPU = ("kernel", "gpu_memcpy", "gpu_memset")
KINDS = (
    ("copies", r"memcpy|memset"),
    ("batch normalization", r"batch_?norm|bn_(fw|bw)"),
    ("convolutions", r"conv|fprop|dgrad|wgrad|implicit|winograd|xmma|cudnn"),
    ("optimizer", r"multi_tensor|fused_?sgd"),
    ("pooling", r"pool"),
    ("matrix products", r"gemm|cutlass|cublas"),
    ("crops: gathering", r"index"),
)
"""Kinds of kernels by what their names contain; the first that fits counts, all others are elementwise."""

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
LAUNCHES = re.compile(r"LaunchKernel")
TOP = 12


def summarize(trace: Mapping[str, Any], n_steps: int) -> dict[str, Any]:
    """Microseconds and counts per step.

    Args:
        trace: as `export_chrome_trace` writes it.
        n_steps: in it.

    Returns:
        `gpu_us`: when at least one kernel or copy ran; `kinds`: their sums by kind; `kernels`: the longest,
        with kind, microseconds and count; `launches` and `waits`: calls of the CUDA runtime.
    """
    events = [e for e in trace["traceEvents"] if e.get("ph") == "X"]
    on_gpu = [e for e in events if e.get("cat") in ON_GPU]
    kinds: defaultdict[str, float] = defaultdict(float)
    kernels: defaultdict[str, list[float]] = defaultdict(list)
    for event in on_gpu:
        kinds[kind(event["name"])] += event["dur"]
        kernels[event["name"]].append(event["dur"])
    longest = sorted(kernels.items(), key=lambda item: -sum(item[1]))[:TOP]
    runtime = [e["name"] for e in events if e.get("cat") in ("cuda_runtime", "cuda_driver")]
    return {
        "gpu_us": _covered(on_gpu) / n_steps,
        "kinds": {name: us / n_steps for name, us in sorted(kinds.items(), key=lambda item: -item[1])},
        "kernels": [
            {"name": name, "kind": kind(name), "us": sum(us) / n_steps, "count": len(us) / n_steps}
            for name, us in longest
        ],
        "launches": sum(bool(LAUNCHES.search(name)) for name in runtime) / n_steps,
        "waits": sum(name in WAITS for name in runtime) / n_steps,
    }


def kind(name: str) -> str:
    """The kind of a kernel or copy."""
    return next((k for k, pattern in KINDS if re.search(pattern, name, re.IGNORECASE)), "elementwise")


def _covered(events: list[Mapping[str, Any]]) -> float:
    """Microseconds in which at least one of the events was running."""
    covered, until = 0.0, float("-inf")
    for event in sorted(events, key=lambda e: e["ts"]):
        begin, end = event["ts"], event["ts"] + event["dur"]
        covered += max(0.0, end - max(begin, until))
        until = max(until, end)
    return covered
