"""State dicts as other programs save them: inside a checkpoint, or with names that a wrapper gave."""

from __future__ import annotations

import argparse
import pathlib
import re
from collections.abc import Collection, Mapping

from finetune.errors import WeightsError
from finetune.network.network import State

NESTED = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "weights")
"""Keys under which checkpoints hold a state dict: Lightning, timm, torchvision's references, tutorials."""

NUMBERED = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4", "9": "fc"}
"""Names of torchvision's layers by their position in nn.Sequential(*network.children())."""

HARMLESS = (
    (argparse.Namespace, "argparse.Namespace"),
    *(
        (kind, f"{module}.{name}")
        for module in ("pathlib", "pathlib._local")  # since Python 3.13
        for kind, name in ((pathlib.PurePosixPath, "PosixPath"), (pathlib.PureWindowsPath, "WindowsPath"))
    ),
)
"""Options and paths, which training scripts save beside the weights: what stands in for them, and their name
in the file. To make them runs no code of the file."""

DEEPEST = 3

_ANCHOR, _NUMBERED_ANCHOR = "conv1.weight", "4.0.conv1.weight"
_NOT_ALLOWED = re.compile(r"GLOBAL (\S+)")


def nested(content: object) -> tuple[object, str]:
    """The state dict inside a checkpoint and the keys that lead to it; what is no checkpoint, unchanged."""
    where: list[str] = []
    for _ in range(DEEPEST):  # a file can hold a dictionary that holds itself
        if not isinstance(content, Mapping):
            break
        key = next((k for k in NESTED if isinstance(content.get(k), Mapping) and content[k]), None)
        if key is None:
            break
        where.append(key)
        content = content[key]
    return content, ".".join(where)


def unwrapped(state: State, names: Collection[str], path: object) -> tuple[State, str]:
    """The entries of the network under its own names, and the prefix that they had.

    Wrappers such as DataParallel (`module.`), torch.compile (`_orig_mod.`) and Lightning modules (`model.`,
    `net.`, `backbone.`, ...) put a prefix before every name. Entries without it, such as those of a metric or
    of another head, are left out. If less than half of the names are found, the state is returned unchanged.

    Args:
        state: of any network.
        names: of the entries wanted.
        path: of the file, for the message.

    Raises:
        WeightsError: two networks of the kind are in the state.
    """
    state = _named(state)
    found = {prefix: sum(prefix + name in state for name in names) for prefix in _prefixes(state, _ANCHOR)}
    most = max(found.values(), default=0)
    best = sorted(prefix for prefix, count in found.items() if count == most)
    if most * 2 < len(names) or "" in best:
        return state, ""
    if len(best) > 1:
        raise WeightsError(
            f"The weights file {path} must hold one network, but it holds {len(best)}, with names that begin "
            f"with {', '.join(best)}; save only one of them."
        )
    prefix = best[0]
    return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}, prefix


def _prefixes(state: State, anchor: str) -> set[str]:
    """What comes before the anchor in the names that end with it as a whole part."""
    ends = [n.removesuffix(anchor) for n in state if n.endswith(anchor)]
    return {prefix for prefix in ends if prefix == "" or prefix.endswith(".")}


def _named(state: State) -> State:
    """The state with layers' names in place of positions, in every nn.Sequential of a network's children."""
    for prefix in _prefixes(state, _NUMBERED_ANCHOR):
        layer = re.compile(rf"{re.escape(prefix)}([0-9])\.(.+)", re.DOTALL)
        matches = {name: layer.fullmatch(name) for name in state}
        state = {
            f"{prefix}{NUMBERED[m[1]]}.{m[2]}" if (m := matches[name]) and m[1] in NUMBERED else name: tensor
            for name, tensor in state.items()
        }
    return state


def why_refused(error: Exception) -> str | None:
    """Which Python object kept torch.load(weights_only=True) from reading a file; None if none did."""
    found = _NOT_ALLOWED.search(str(error))
    return found[1] if found else None
