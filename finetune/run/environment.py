"""The machine and the program as the results describe them: no host names, user names or paths."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from finetune import __version__
from finetune.config.names import gpu_number, require_device
from finetune.errors import ConfigError, counted
from finetune.system import host

_IMPORTED = time.perf_counter()
_AGE_AT_IMPORT = max(0.0, time.time() - psutil.Process().create_time())

SOURCE_TREE = Path(__file__).resolve().parents[2]
"""Where this package is; a git repository if it runs from a source tree."""


def choose_device(device: str) -> torch.device:
    """The device of `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.

    Raises:
        ConfigError: another name, or a GPU that PyTorch cannot use here.
    """
    require_device(device)
    if device == "mps":
        if not torch.backends.mps.is_available():
            raise ConfigError(
                "--device mps needs an Apple GPU that PyTorch can use, but there is none; use --device cpu "
                "or auto."
            )
        return torch.device("mps")
    available = torch.cuda.is_available()
    if device.startswith("cuda") and not available:
        raise ConfigError(
            f"--device {device} needs a GPU that PyTorch can use, but there is none; use --device cpu or "
            "auto (in Compose: train-cpu)."
        )
    number, count = gpu_number(device), torch.cuda.device_count() if available else 0
    if number is not None:
        if number >= count:
            raise ConfigError(
                f"--device {device} needs {counted(number + 1, 'GPU')}, but PyTorch can use {count}; use "
                f"{'cuda:0' if count == 1 else f'cuda:0 to cuda:{count - 1}'}."
            )
        return torch.device("cuda", number)
    return torch.device("cuda" if available and device != "cpu" else "cpu")


def choose_algorithms(deterministic: bool) -> None:
    """On a GPU: benchmark convolutions and use the fastest, or use deterministic algorithms only.

    CUBLAS_WORKSPACE_CONFIG is what PyTorch requires for deterministic matrix products in CUDA.
    """
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def load_average() -> float | None:
    """Processes that ran or waited to run on this machine in the last minute, on average; None if unknown."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):  # not on Windows, and not in every container
        return None


def mean_load(before: float | None) -> float | None:
    """The mean of an earlier load average and the present one; None if either is unknown."""
    now = load_average()
    return None if before is None or now is None else (before + now) / 2


def peak_memory_bytes(device: torch.device) -> int:
    """CPU: the peak resident set of the process; CUDA: the peak of allocated memory since the last reset."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource  # only on POSIX systems

    scale = 1 if platform.system() == "Darwin" else 1024  # macOS counts bytes, Linux kibibytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def describe(device: torch.device) -> dict[str, Any]:
    """The `environment` object of the results."""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "torchvision", "numpy", "pillow")},
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "platform": f"{platform.system()}-{platform.machine()}",
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        "vector_instructions": vector_instructions(),
        "cpu_cores": host.cores(),
        "threads": torch.get_num_threads(),
    }


def cpu_name() -> str:
    """The processor as the operating system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def vector_instructions() -> str:
    """What decides how this processor rounds; virtual machines give one name to processors that differ in it.

    Returns:
        The widest vectors that PyTorch uses here, the extensions that oneDNN has kernels for, and the
        variable that forbids some of them if it is set.
    """
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA")  # the older name
    named = {
        torch.backends.cpu.get_cpu_capability(): True,
        "BF16": torch.cpu._is_avx512_bf16_supported(),
        "AMX": torch.cpu._is_amx_tile_supported(),
        f"ONEDNN_MAX_CPU_ISA={limit}": limit,
    }
    return ", ".join(name for name, applies in named.items() if applies)


def describe_tool() -> dict[str, Any]:
    """The `tool` object of the results; it names a commit only when running from a source tree."""
    commit = dirty = None
    if (SOURCE_TREE / ".git").exists():
        commit = _git("rev-parse", "HEAD")
        dirty = None if commit is None else bool(_git("status", "--porcelain"))
    return {"name": "finetune", "version": __version__, "git_commit": commit, "git_dirty": dirty}


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(SOURCE_TREE), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()  # noqa: S603 - fixed arguments
    except (OSError, subprocess.SubprocessError):
        return None


def elapsed_seconds() -> float:
    """Seconds since this process started, whatever is done to the system clock meanwhile."""
    return _AGE_AT_IMPORT + time.perf_counter() - _IMPORTED
