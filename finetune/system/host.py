"""What this process may use of the machine: cores, threads, memory, disk space.

Inside a container the usual system calls report the whole machine; the container's own limits are found in
control groups, version 1 or 2. Nothing here imports torch.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from finetune.errors import ConfigError, RunFolderError, counted, sized

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
PLENTY_BYTES = 8 << 30
"""Free memory from which freed blocks are kept: with ResNet-18 at 224 pixels in batches of 64, the process
then holds 4.4 GB instead of 3.5 GB."""

CROWDED_CORES = 0.4
"""Cores that other programs may use of those that threads need, before it is said."""

THREADS_MAX = 1024
"""OpenMP aborts the process if it cannot start as many threads as it is asked for."""

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Parameters of glibc's mallopt."""


def cores(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int:
    """CPU cores that this process may use: its affinity, limited by a container's CPU quota, rounded up.

    Args:
        cgroups: where control groups are mounted.
        own: the file that lists this process's control groups.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(math.ceil(quota) for quota in _cpu_quotas(cgroups, own))]))


def choose_threads(wanted: int | None, local_size: int = 1, environ: Mapping[str, str] = os.environ) -> int:
    """Threads that PyTorch computes with: as wanted, else OMP_NUM_THREADS, else one per core.

    Args:
        wanted: the value of `--threads`.
        local_size: processes among which this machine's cores are divided.
        environ: environment variables.

    Raises:
        ConfigError: the number that counts breaks its rule.
    """
    name, value = "threads", str(wanted)
    if wanted is None:
        name, value = "OMP_NUM_THREADS", environ.get("OMP_NUM_THREADS", "")
        # torchrun sets it to 1 where the user has not set it.
        if not value or (value == "1" and local_size > 1 and "TORCHELASTIC_RUN_ID" in environ):
            return max(1, cores() // local_size)
    if not (value.isascii() and value.isdigit() and 1 <= int(value) <= THREADS_MAX):
        raise ConfigError(f"{name} must be a whole number from 1 to {THREADS_MAX}, but {value} was given.")
    return int(value)


def available_memory_bytes(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int:
    """Memory that can still be allocated, on the machine and within a container's limit.

    Control groups count the page cache as used, but the kernel reclaims it on demand.
    """
    left = [psutil.virtual_memory().available]
    for folder in _folders("memory", cgroups, own):
        # Version 2, then version 1.
        limit = _number(folder / "memory.max", folder / "memory.limit_in_bytes")
        used = _number(folder / "memory.current", folder / "memory.usage_in_bytes")
        if limit is not None and used is not None:
            left.append(max(0, limit - used + _reclaimable_bytes(folder / "memory.stat")))
    return min(left)


def keep_freed_memory() -> None:
    """Where memory is plentiful, keep the C library from returning large freed blocks to the kernel.

    At 224 pixels each training step allocates a dozen of them again: 600,000 page faults, a tenth of its
    time. Does nothing without glibc (`man mallopt`).
    """
    if available_memory_bytes() < PLENTY_BYTES or platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 64 << 20)):
        library.mallopt(parameter, value)


def give_back_freed_memory() -> None:
    """Return freed memory to the kernel, so that one run's does not add to the peak of the next."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def check_writable(folder: Path, purpose: str, needed_bytes: int = 0) -> None:
    """Make sure that new files can be written to a folder, and that there is enough disk space for them.

    Tries it by writing, since permissions show neither a read-only volume nor a quota.

    Args:
        folder: need not exist yet; then the closest parent that exists is checked.
        purpose: what the message calls the folder, such as "run folder".
        needed_bytes: how much is going to be written.

    Raises:
        RunFolderError: read-only, not permitted, full, or not a folder.
    """
    existing = folder.absolute()
    try:
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        if not existing.is_dir():
            raise NotADirectoryError
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
        free = shutil.disk_usage(existing).free
    except OSError as error:
        raise RunFolderError(
            f"The {purpose} must be writable, but {folder} is not: {_why(error, existing)}."
        ) from error
    if free < needed_bytes:
        raise RunFolderError(
            f"The {purpose} {folder} needs {sized(needed_bytes)} of disk space, but its volume has "
            f"{sized(free)} free; free disk space or choose a folder on another volume."
        )


class OtherPrograms:
    """What other programs leave of the machine's cores, from now on."""

    def __init__(self) -> None:
        self._since, self._before = time.perf_counter(), _seconds_of_others()

    def free_cores(self) -> float:
        """Cores that no other program used, on average since this object was made."""
        seconds = max(1e-9, time.perf_counter() - self._since)
        return (os.cpu_count() or 1) - (_seconds_of_others() - self._before) / seconds


def _seconds_of_others() -> float:
    """CPU time that everything but this process has taken since the machine started."""
    machine: dict[str, float] = psutil.cpu_times()._asdict()
    own = psutil.Process().cpu_times()
    apart = ("idle", "iowait", "guest", "guest_nice")  # a guest's time is in `user`, too
    return sum(seconds for name, seconds in machine.items() if name not in apart) - own.user - own.system


def crowded_line(threads: int, free_cores: float) -> str | None:
    """Advice if there are more threads than free cores; None if there is room.

    oneDNN's threads spin while they wait for one another in the backward pass. If another program has the
    core of one of them, all wait for its time slice, hundreds of times per step.
    """
    if threads == 1 or free_cores > threads - CROWDED_CORES:
        return None
    return (
        f"Other programs leave {max(0.0, free_cores):.1f} of {os.cpu_count()} cores free. In every step the "
        f"{threads} threads wait for one another, so training may take several times as long; try --threads "
        f"{max(1, int(free_cores + CROWDED_CORES))}."
    )


def startup_line(environment: Mapping[str, Any], gpu_memory: tuple[int, int] | None = None) -> str:
    """One line for the log: device, driver, threads, memory, versions.

    Args:
        environment: the `environment` object of the results.
        gpu_memory: free and total bytes of the GPU.
    """
    device = [environment["device_name"]]
    if environment["device"] == "cuda":
        if gpu_memory is not None:
            device.append(f"{sized(gpu_memory[0])} of {sized(gpu_memory[1])} free")
        device.append(f"driver {driver_version() or 'unknown'}")
        device.append(f"CUDA {environment['cuda']}")
    return (
        f"Device: {', '.join(device)}; {environment['cpu_cores']} of {os.cpu_count()} cores, "
        f"{counted(environment['threads'], 'thread')}; {sized(available_memory_bytes())} of memory free; "
        f"Python {environment['python']}, torch {environment['torch']}, "
        f"torchvision {environment['torchvision']}."
    )


def driver_version(path: Path = NVIDIA_DRIVER) -> str | None:
    """Version of NVIDIA's kernel driver, such as 580.65.06; None without one."""
    try:
        words = path.read_text("utf-8", "replace").splitlines()[0].split()
    except (OSError, IndexError):
        return None
    return next((w for w in words if w[0].isdigit() and "." in w), None)


def _cpu_quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """The CPU quotas that apply, in cores."""
    for folder in _folders("cpu", cgroups, own):
        words = _words(folder / "cpu.max")  # version 2: "max 100000" or "150000 100000"
        if not words:
            words = _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
        if len(words) == 2 and words[0] not in ("max", "-1") and all(w.isdigit() for w in words):
            quota, period = map(int, words)
            if quota and period:
                yield quota / period


def _folders(controller: str, cgroups: Path, own: Path) -> Iterator[Path]:
    """Folders of this process's control groups for a controller, innermost first, in both versions.

    In a container, `own` often contains a path of the host that does not exist inside; the mounted root is
    then the container's own group. So every folder from that path up to the root counts.
    """
    try:
        lines = own.read_text("utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if not names:
            mounts = [cgroups, cgroups / "unified"]
        elif controller in names.split(","):
            mounts = [cgroups / names, cgroups / controller]
        else:
            continue
        for mount in mounts:
            inner = mount / path.lstrip("/")
            for folder in (inner, *inner.parents):
                if folder.is_dir():
                    yield folder
                if folder == mount:
                    break


def _words(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").split()
    except OSError:
        return []


def _number(*paths: Path) -> int | None:
    """The number in the first of the files that contains one; "max" is not a number."""
    for path in paths:
        words = _words(path)
        if words and words[0].isdigit():
            return int(words[0])
    return None


def _reclaimable_bytes(stat: Path) -> int:
    words = _words(stat)
    counters = dict(zip(words[::2], words[1::2], strict=False))
    # Only the total_ counters of version 1 include nested groups.
    return int(counters.get("total_inactive_file", counters.get("inactive_file", 0)))


def _why(error: OSError, folder: Path) -> str:
    """Why no file can be written to a folder, and what to do."""
    match error:
        case NotADirectoryError():
            return f"{folder} is a file; choose another folder"
        case PermissionError():
            owner = folder.stat()
            if owner.st_uid == os.getuid():
                return f"{folder} is yours, but not writable; chmod u+w it or choose another folder"
            return (
                f"{folder} belongs to user {owner.st_uid}, group {owner.st_gid}, and this is user "
                f"{os.getuid()}, group {os.getgid()}; run as its owner or choose another folder"
            )
    reason = (error.strerror or str(error)).lower()
    return f"{folder}: {reason}; mount the volume writable, free disk space, or choose another folder"
