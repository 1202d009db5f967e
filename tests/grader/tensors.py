"""Checkpoints of a ResNet-18 with hardly any channels, written without torch."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grader.checks.origin import KNOWN_WEIGHTS
from grader.submission import resnet18
from grader.submission.checkpoints import COUNTER

State = dict[str, NDArray[Any]]
TYPES = {"float32": "F32", "int64": "I64"}


def narrow_shapes(n_classes: int) -> resnet18.Shapes:
    """The names of ResNet-18's state, each dimension at most 2; put in place of the real shapes in a test."""
    return {n: tuple(min(2, d) for d in s) for n, s in resnet18.state_shapes(n_classes).items()}


def state_of(run: Mapping[str, Any], steps: int, n_classes: int = 10) -> State:
    """What training leaves: frozen tensors as at the start, trained ones changed, steps counted."""
    start = np.random.default_rng(1 if run["init"] == "pretrained" else [2, run["seed"]])
    rng = np.random.default_rng([run["seed"], *run["variant"].encode()])
    counter = KNOWN_WEIGHTS["bundled"].counter if run["init"] == "pretrained" else 0
    state: State = {}
    for name, shape in narrow_shapes(n_classes).items():
        initial = start.normal(size=shape).astype(np.float32)
        is_trained = name.partition(".")[0] in run["trained_groups"]
        if name.endswith(COUNTER):
            state[name] = np.array(counter + steps * is_trained, np.int64)
        else:
            change = rng.normal(size=shape).astype(np.float32) if is_trained else 0
            state[name] = (initial + change).astype(np.float32)
    return state


def frozen_sha256(state: State, trained_groups: list[str]) -> str:
    """The hash of a network's frozen tensors as finetune defines it."""
    digest = hashlib.sha256()
    for name in sorted(state):
        if name.partition(".")[0] not in trained_groups:
            digest.update(f"{name}\ttorch.{state[name].dtype}\t{list(state[name].shape)}\n".encode())
            digest.update(state[name].tobytes())
    return digest.hexdigest()


def as_safetensors(state: State) -> bytes:
    """The file format: length of the header, header, values."""
    header, position = {}, 0
    for name, values in state.items():
        end = position + values.nbytes
        kind, shape = TYPES[str(values.dtype)], list(values.shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [position, end]}
        position = end
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + b"".join(v.tobytes() for v in state.values())


def steps_of(run: Mapping[str, Any], document: Mapping[str, Any]) -> int:
    """Optimizer steps up to the best epoch."""
    n_train = document["dataset"]["splits"]["train"]["n_samples"]
    batch_size = document["config"]["recipe"]["batch_size"]
    return int(run["best_epoch"]) * -(-n_train // batch_size)


def write_checkpoint(folder: Path, run: dict[str, Any], state: State) -> None:
    """Write a run's checkpoint and record its hash."""
    content = as_safetensors(state)
    artifact = run["artifacts"]["checkpoint"]
    path = folder / artifact["path"]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    artifact["sha256"] = hashlib.sha256(content).hexdigest()


def write_checkpoints(folder: Path, document: Mapping[str, Any]) -> None:
    """Write an honest checkpoint for each run, and record the hashes."""
    for run in document["runs"]:
        state = state_of(run, steps_of(run, document))
        frozen = frozen_sha256(state, run["trained_groups"])
        run.update(frozen_sha256_before=frozen, frozen_sha256_after=frozen)
        write_checkpoint(folder, run, state)
