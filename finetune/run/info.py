"""What is installed, what the machine can do, and which weights, images and caches are there.

Works without PyTorch: what cannot be known then is None.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from importlib import resources
from pathlib import Path
from typing import Any

from finetune import __version__
from finetune.errors import counted, listed, sized
from grader.reading.truth import FLOWERS_FOLDER

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "safetensors", "click", "rich")
FOR_DEVELOPERS = ("dev", "docs")
"""Extras that no user of finetune needs."""

Json = dict[str, Any]


def describe(data_root: Path) -> Json:
    """Everything that `finetune info` shows, as JSON values; sizes in bytes.

    Args:
        data_root: folder of downloaded data sets.

    Raises:
        ConfigError: a variable that limits threads or the cache breaks its rule.
    """
    return {
        "finetune": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()}-{platform.machine()}",
        "packages": {name: _version(name) for name in PACKAGES},
        **_machine(),
        "weights": _weights(),
        "datasets": _datasets(data_root),
        "cache": _cache(),
        "extras": _extras(),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _machine() -> Json:
    unknown: Json = {"cpu": None, "free_memory_bytes": None, "gpus": []}
    if None in (_version("torch"), _version("torchvision"), _version("psutil")):
        return unknown
    from finetune.system import host

    # Before PyTorch is imported, whose OpenMP prints a warning of its own.
    threads = host.choose_threads(None)
    import torch

    from finetune.run.environment import cpu_name
    from finetune.training.precision import choose_precision

    def bf16(device: str) -> bool:
        return choose_precision("auto", torch.device(device), 224) == "bf16"

    cpu = {
        "name": cpu_name(),
        "cores": host.cores(),
        "cores_of_machine": os.cpu_count(),
        "threads": threads,
        "bf16": bf16("cpu"),
    }
    gpus = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        with torch.cuda.device(index):
            free, total = torch.cuda.mem_get_info()
            name = torch.cuda.get_device_name()
            gpus.append(
                {"name": name, "free_bytes": free, "total_bytes": total, "bf16": bf16(f"cuda:{index}")}
            )
    return {"cpu": cpu, "free_memory_bytes": host.available_memory_bytes(), "gpus": gpus}


def _weights() -> list[Json]:
    bundled = Path(str(resources.files("finetune") / "bundled" / "resnet18-tinyimagenet.safetensors"))
    found = [_file("bundled", bundled)]
    if _version("torch") is not None and _version("torchvision") is not None:
        import torch

        from finetune.network.weights import IMAGENET_URL

        name = IMAGENET_URL.rpartition("/")[2]
        found.append(_file("imagenet", Path(torch.hub.get_dir()) / "checkpoints" / name))
    return found


def _file(name: str, path: Path) -> Json:
    return {"name": name, "path": str(path), "n_bytes": path.stat().st_size if path.is_file() else None}


def _datasets(data_root: Path) -> list[Json]:
    flowers = data_root / FLOWERS_FOLDER
    return [
        {"name": "digits", "path": None, "found": _version("scikit-learn") is not None},
        {"name": "flowers102", "path": str(flowers), "found": (flowers / "jpg").is_dir()},
    ]


def _cache() -> Json | None:
    if None in (_version("torch"), _version("pillow"), _version("filelock"), _version("psutil")):
        return None
    from finetune.data.cache import cache_folder, cache_limit, entries

    found = entries()
    return {
        "path": str(cache_folder()),
        "n_entries": len(found),
        "n_bytes": sum(entry.n_bytes for entry in found),
        "limit_bytes": cache_limit(),
    }


def _extras() -> list[Json]:
    """The extras of this installation, and which of their packages are missing."""
    extras: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("finetune") or []:
        match = re.fullmatch(r"([A-Za-z0-9._-]+).*;.*extra == ['\"]([a-z0-9-]+)['\"].*", line)
        if match and match[2] not in FOR_DEVELOPERS:
            missing = extras.setdefault(match[2], [])
            if _version(match[1]) is None:
                missing.append(match[1])
    install = 'pip install "finetune[{}]"'
    return [
        {"name": name, "missing": sorted(missing), "install": install.format(name) if missing else None}
        for name, missing in sorted(extras.items())
    ]


def lines(info: Json) -> list[str]:
    """The same for people, a fact a line."""
    installed = (f"{name} {version}" for name, version in info["packages"].items() if version)
    cpu, cache = info["cpu"], info["cache"]
    shown = [
        f"finetune {info['finetune']}, Python {info['python']}, {info['platform']}",
        f"Packages: {', '.join(installed)}",
    ]
    if cpu is not None:
        shown += [
            f"CPU: {cpu['name']}; {cpu['cores']} of {cpu['cores_of_machine']} cores, "
            f"{counted(cpu['threads'], 'thread')}; {_bf16(cpu['bf16'])}",
            f"Memory: {sized(info['free_memory_bytes'])} free",
        ]
        shown += [
            f"GPU: {gpu['name']}; {sized(gpu['free_bytes'])} of {sized(gpu['total_bytes'])} free; "
            f"{_bf16(gpu['bf16'])}"
            for gpu in info["gpus"]
        ] or ["GPU: none that PyTorch can use"]
    for weights in info["weights"]:
        size = weights["n_bytes"]
        where = f"not there yet, downloaded when needed to {weights['path']}"
        shown.append(f"Weights {weights['name']}: {where if size is None else _of(size, weights['path'])}")
    for dataset in info["datasets"]:
        path = dataset["path"]
        missing = f"not in {path}, downloaded when needed" if path else "needs scikit-learn"
        shown.append(f"Data set {dataset['name']}: {path or 'embedded' if dataset['found'] else missing}")
    if cache is not None:
        shown.append(
            f"Cache: {sized(cache['n_bytes'])} of at most {sized(cache['limit_bytes'])} in {cache['path']}, "
            f"{counted(cache['n_entries'], 'data set split')}"
        )
    for extra in info["extras"]:
        missing = f"missing {listed(extra['missing'])}; {extra['install']}"
        shown.append(f"Extra {extra['name']}: {missing if extra['missing'] else 'installed'}")
    return shown


def _bf16(has: bool) -> str:
    return "computes in bf16" if has else "no bf16 instructions, computes in fp32"


def _of(n_bytes: int, path: str) -> str:
    return f"{sized(n_bytes)} in {path}"
