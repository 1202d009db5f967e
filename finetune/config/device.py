"""Names of devices, as `--device` takes them."""

from __future__ import annotations

import re

from finetune.config.rules import require

NAMES = ("auto", "cpu", "cuda", "mps")
RULE = "auto, cpu, cuda, cuda:N or mps"

_NUMBERED = re.compile(r"cuda:(0|[1-9][0-9]{0,2})")


def require_device(device: object) -> None:
    """Check that a device has one of the names; whether this machine has it is another matter.

    Raises:
        ConfigError: it has not.
    """
    named = device in NAMES
    require(named or gpu_number(device) is not None, "device", RULE, device, NAMES)


def gpu_number(device: object) -> int | None:
    """N of `cuda:N`; None for every other device."""
    found = _NUMBERED.fullmatch(device) if isinstance(device, str) else None
    return int(found[1]) if found else None
