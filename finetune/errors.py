"""Errors a user can cause or meet. Each message says what is wrong, the rule, the value given and what to do.

The command line turns every one of them into a single sentence and exit code 2; anything else that escapes
is a bug in finetune.
"""

from collections.abc import Iterable

from grader.errors import nearest
from grader.findings import counted as counted


class FinetuneError(Exception):
    """Anything the user can put right."""


class ConfigError(FinetuneError, ValueError):
    """An option, a preset or a combination of them is not valid."""


class DataError(FinetuneError, ValueError):
    """The images cannot be found, read or divided as asked."""


class BadImagesError(DataError):
    """Images that cannot be read.

    Args:
        reasons: why, by sample id.
    """

    def __init__(self, reasons: dict[str, str]) -> None:
        self.reasons = dict(sorted(reasons.items()))
        found = listed([f"{name} ({reason})" for name, reason in self.reasons.items()])
        super().__init__(
            f"Every image must be readable, but {len(reasons)} cannot be: {found}; repair or remove them, or "
            "leave them out with --on-bad-image skip."
        )


class WeightsError(FinetuneError, ValueError):
    """The pretrained weights cannot be found, read or fitted to the network."""


class OutOfMemory(FinetuneError, MemoryError):  # noqa: N818 - named as PyTorch names its own
    """Memory ran out, on the host or on the GPU."""


class RunFolderError(FinetuneError, OSError):
    """The run folder cannot be written or read."""


def listed(items: list[str], most: int = 10) -> str:
    """The first `most` items separated by commas, and how many more there are."""
    head = ", ".join(items[:most])
    return head if len(items) <= most else f"{head} and {len(items) - most} more"


def sized(n_bytes: float) -> str:
    """A number of bytes in the units of `--cache-limit`, which are decimal: "54 MB", "1.5 GB"."""
    unit = "B"
    for larger in ("kB", "MB", "GB", "TB", "PB", "EB"):
        if n_bytes < 999.5:
            break
        n_bytes, unit = n_bytes / 1000, larger
    return f"{n_bytes:.3g} {unit}"


def did_you_mean(value: object, choices: Iterable[str]) -> str:
    """The end of a sentence about an unknown value: "; did you mean 'smoke'?", or nothing."""
    near = nearest(value, choices) if isinstance(value, str) else None
    return f"; did you mean {near!r}?" if near else ""
