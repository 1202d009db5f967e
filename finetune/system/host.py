"""What this machine, or the container on it, really gives: cores, memory, shared memory, room to write.

Inside a container the usual questions answer for the whole machine; its limits stand in control groups,
version 1 or 2. Nothing here imports torch.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from finetune.errors import RunFolderError

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - looked at, never written to
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
PLENTY_BYTES = 8 << 30
"""Of free memory; ResNet-18 at 224 pixels in batches of 64 holds 4.4 GB instead of 3.5 GB when it is kept."""

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Parameters of glibc's mallopt."""

SHARED_MEMORY_USUAL_BYTES = 64 << 20
"""What engines give a container unless told otherwise."""


def cores(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int:
    """Processor cores that this process may use: its affinity, and a container's CPU quota, rounded up.

    Args:
        cgroups: where the kernel shows control groups.
        own: the file that names this process's control groups.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(math.ceil(quota) for quota in _cpu_quotas(cgroups, own))]))


def available_memory_bytes(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int:
    """Memory that can still be taken: the machine's, and what a container's limit leaves.

    Pages of files that were read count as used in a control group, but the kernel gives them up when asked.
    """
    left = [psutil.virtual_memory().available]
    for folder in _folders("memory", cgroups, own):
        # Version 2's names, then version 1's.
        limit = _number(folder / "memory.max", folder / "memory.limit_in_bytes")
        used = _number(folder / "memory.current", folder / "memory.usage_in_bytes")
        if limit is not None and used is not None:
            left.append(max(0, limit - used + _reclaimable_bytes(folder / "memory.stat")))
    return min(left)


def keep_freed_memory() -> None:
    """Where memory is plentiful, let the C library keep what is freed; else large blocks go to the kernel.

    At 224 pixels each training step asks for a dozen of them anew: 600,000 page faults, a tenth of its time.
    Does nothing without glibc (`man mallopt`).
    """
    if available_memory_bytes() < PLENTY_BYTES or platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 64 << 20)):
        library.mallopt(parameter, value)


def give_back_freed_memory() -> None:
    """Between two runs: what the C library still holds of the last one would add to the peak of the next."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def shared_memory_note(folder: Path = SHARED_MEMORY, usual: int = SHARED_MEMORY_USUAL_BYTES) -> str | None:
    """One sentence if /dev/shm is smaller than containers usually have, else None."""
    try:
        total = _room(folder)[1]
    except OSError:
        total = 0
    if total >= usual:
        return None
    return (
        f"{folder} holds {_size(total)}, less than a container's usual {_size(usual)}: finetune's threads "
        "need none of it, but worker processes would fail; enlarge it with --shm-size=1g."
    )


def check_writable(folder: Path, purpose: str, needed_bytes: int = 0) -> None:
    """Make sure that a folder, or the one it would be made in, takes new files and has room for them.

    It asks by writing, since permissions alone know of neither a read-only volume nor a quota.

    Args:
        folder: need not exist yet.
        purpose: how the message calls it, such as "run folder".
        needed_bytes: what is going to be written there.

    Raises:
        RunFolderError: read-only, not permitted, full, or a file stands in the way.
    """
    place = folder.absolute()
    try:
        while not place.exists() and place != place.parent:
            place = place.parent
        if not place.is_dir():
            raise NotADirectoryError(f"{place} is no folder")
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
        free = _room(place)[0]
    except OSError as error:
        raise RunFolderError(
            f"The {purpose} must be writable, but {folder} is not: {_why(error, place)}."
        ) from error
    if free < needed_bytes:
        raise RunFolderError(
            f"The {purpose} {folder} needs {_size(needed_bytes)} of room, but its volume has {_size(free)} "
            "free; make room or name a folder on another volume."
        )


def startup_line(environment: Mapping[str, Any], gpu_memory: tuple[int, int] | None = None) -> str:
    """One line for the log: device, driver, memory, threads, versions.

    Args:
        environment: the results' object of that name.
        gpu_memory: free and total bytes of the GPU.
    """
    device = [environment["device_name"]]
    if environment["device"] == "cuda":
        if gpu_memory is not None:
            device.append(f"{_size(gpu_memory[0])} of {_size(gpu_memory[1])} free")
        device.append(f"driver {driver_version() or 'unknown'}")
        device.append(f"CUDA {environment['cuda']}")
    return (
        f"Device: {', '.join(device)}; {environment['cpu_cores']} of {os.cpu_count()} cores, "
        f"{environment['threads']} threads; {_size(available_memory_bytes())} of memory free; "
        f"Python {environment['python']}, torch {environment['torch']}, "
        f"torchvision {environment['torchvision']}."
    )


def driver_version(path: Path = NVIDIA_DRIVER) -> str | None:
    """Version of NVIDIA's kernel driver, such as 580.65.06, where there is one."""
    try:
        words = path.read_text("utf-8", "replace").splitlines()[0].split()
    except (OSError, IndexError):
        return None
    return next((w for w in words if w[0].isdigit() and "." in w), None)


def _cpu_quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """Every limit that applies, in cores."""
    for folder in _folders("cpu", cgroups, own):
        words = _words(folder / "cpu.max")  # version 2: "max 100000" or "150000 100000"
        if not words:
            words = _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
        if len(words) == 2 and words[0] not in ("max", "-1") and all(w.isdigit() for w in words):
            quota, period = map(int, words)
            if quota and period:
                yield quota / period


def _folders(controller: str, cgroups: Path, own: Path) -> Iterator[Path]:
    """Folders of this process's control groups for a controller, innermost first, both versions.

    In a container `own` often names a path of the host that is not there; the mounted root is then the
    container's group, so every folder from the named one up to the root is looked at.
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
    """The number in the first of the files that holds one; "max" is none."""
    for path in paths:
        words = _words(path)
        if words and words[0].isdigit():
            return int(words[0])
    return None


def _reclaimable_bytes(stat: Path) -> int:
    words = _words(stat)
    counters = dict(zip(words[::2], words[1::2], strict=False))
    # Version 1 counts the groups below only in the total_ ones.
    return int(counters.get("total_inactive_file", counters.get("inactive_file", 0)))


def _room(folder: Path) -> tuple[int, int]:
    """Bytes that this user may still write, and the volume's size."""
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize


def _why(error: OSError, place: Path) -> str:
    """What stopped a file from being written, and the way on."""
    match error:
        case NotADirectoryError():
            return f"{place} is a file; name another folder"
        case PermissionError():
            owner = place.stat()
            return (
                f"{place} belongs to user {owner.st_uid}, group {owner.st_gid}, and this is user "
                f"{os.getuid()}, group {os.getgid()}; run as its owner or name another folder"
            )
    reason = (error.strerror or str(error)).lower()
    return f"{place}: {reason}; mount the volume writable, make room, or name another folder"


def _size(n_bytes: int) -> str:
    """1536 -> 1.5 KiB."""
    value, unit = float(n_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"
