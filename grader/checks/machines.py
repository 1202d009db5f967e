"""Whether the grader's machine computes as the one that the results name."""

from collections.abc import Mapping
from typing import Any

SAME_START = ("device_name", "vector_instructions")
"""Where these agree, too, random weights are the same: PyTorch draws normal values otherwise without AVX2."""


def differing(there: Mapping[str, Any], here: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """Why one machine may compute something else than another one; empty if it may not.

    Args:
        there: the `environment` of the results; what a file of an earlier version lacks is taken to agree.
        here: that of the machine that computed again.
        names: what to compare.
    """
    for name in names:
        if name in there and here.get(name) != there[name]:
            return f"Recorded with {name} {there[name]}, which may give others than {here.get(name)} here."
    return ""
