"""Read checkpoints (safetensors) without torch: hashes, counters and faults of each; no tensor is kept."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from grader.errors import UnusableError
from grader.reading import strict_json
from grader.reading.files import below, is_there
from grader.submission.load import Submission
from grader.submission.recorded_files import RecordedFiles
from grader.submission.resnet18 import parameter_shapes, state_shapes

MAX_CHECKPOINT_BYTES = 256 * 1024 * 1024  # ResNet-18 with 100,000 classes has 250 MB
MAX_TOTAL_BYTES = 4 * 1024**3  # about 90 checkpoints of 45 MB
MAX_HEADER_BYTES = 1024 * 1024  # ResNet-18's has 12 KB
COUNTER = "num_batches_tracked"
NETWORK = "network."  # prefix of the network's tensors in a training state, beside the optimizer's
TYPES = {"F32": ("float32", 4), "I64": ("int64", 8)}  # all that ResNet-18 has


@dataclass(frozen=True)
class Checkpoint:
    """What one checkpoint contains.

    Attributes:
        path: Its path in the results file.
        altered: Why the file is not the recorded one; empty if it is.
        problems: In what it differs from the state of a ResNet-18; if it does, the rest is empty.
        digests: By tensor, the SHA-256 of its values.
        counters: BatchNorm's step counters, by name.
        frozen_sha256: SHA-256 over the tensors that the run froze.
    """

    path: str
    altered: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    frozen_sha256: str = ""


def read_checkpoints(submission: Submission) -> dict[str, Checkpoint]:
    """The checkpoints that the submission contains, by run name; missing ones are left out."""
    found: dict[str, Checkpoint] = {}
    files = RecordedFiles(submission.folder, MAX_CHECKPOINT_BYTES, MAX_TOTAL_BYTES)
    for run in submission.results.runs:
        if run.artifacts is None:
            continue
        artifact = run.artifacts.checkpoint
        try:
            if not is_there(below(submission.folder, artifact.path, run.name), artifact.path):
                continue
            content = files.read(artifact, run.name)
        except UnusableError as error:
            found[run.name] = Checkpoint(artifact.path, altered=error.problems)
            continue
        n_classes = len(submission.results.classes)
        adapts = submission.results.adapts(run)
        found[run.name] = parse_checkpoint(content, artifact.path, n_classes, run.trained_groups, adapts)
    return found


def parse_checkpoint(
    content: bytes, shown: str, n_classes: int, trained: Sequence[str], adapts: bool = False
) -> Checkpoint:
    """Check that a file holds the state of a ResNet-18, and hash what it holds.

    The hash over frozen tensors is finetune's: sorted by name, each as a line with name, type and shape,
    followed by the bytes of its values. If the BatchNorm statistics of frozen layers adapt to the images, it
    covers parameters alone.

    Source: the safetensors format: the length of the header as 8 bytes (little-endian), the header as JSON,
    then the values of all tensors without gaps.
    """
    try:
        tensors = dict(_tensors(content, shown))
    except (UnusableError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error.problems[0] if isinstance(error, UnusableError) else "its header is malformed."
        return Checkpoint(shown, problems=(f"{shown} is not a safetensors file: {reason}",))
    problems = list(_differences(tensors, n_classes, shown))
    if problems:
        return Checkpoint(shown, problems=tuple(problems))
    parameters, frozen = parameter_shapes(n_classes), hashlib.sha256()
    digests: dict[str, str] = {}
    counters: dict[str, int] = {}
    for name, (kind, shape, values) in sorted(tensors.items()):
        digests[name] = hashlib.sha256(values).hexdigest()
        if name.partition(".")[0] not in trained and not (adapts and name not in parameters):
            _add(frozen, name, (kind, shape, values))
        if name.endswith(COUNTER):
            counters[name] = int.from_bytes(values, "little", signed=True)
    return Checkpoint(shown, digests=digests, counters=counters, frozen_sha256=frozen.hexdigest())


Tensor = tuple[str, tuple[int, ...], memoryview]  # type, shape and values


def _tensors(content: bytes, shown: str) -> Iterator[tuple[str, Tensor]]:
    """All tensors of the file, which must cover it without gap or overlap."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(MAX_HEADER_BYTES, len(content) - 8):
        raise ValueError
    header: Any = strict_json.parse(content[8 : 8 + length].rstrip(b" "), shown)
    values, position = memoryview(content)[8 + length :], 0
    entries = [(name, entry) for name, entry in header.items() if name != "__metadata__"]
    for name, entry in sorted(entries, key=lambda item: item[1]["data_offsets"]):
        start, end = entry["data_offsets"]
        kind, shape = entry["dtype"], tuple(entry["shape"])
        known = TYPES.get(kind)
        n_bytes = end - start
        if start != position or (known and (min(shape, default=1) < 0 or prod(shape) * known[1] != n_bytes)):
            raise ValueError
        position = end
        yield name, (kind, shape, values[start:end])
    if position != len(values):
        raise ValueError


def network_sha256(content: bytes, shown: str) -> str:
    """The hash of the network in a training state, as an epoch records it of its weights.

    Raises:
        UnusableError: The file is no training state.
    """
    digest = hashlib.sha256()
    try:
        for name, tensor in sorted(_tensors(content, shown)):
            if name.startswith(NETWORK):
                _add(digest, name.removeprefix(NETWORK), tensor)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnusableError([f"{shown} is not a training state: its header is malformed."]) from error
    return digest.hexdigest()


def _add(digest: "hashlib._Hash", name: str, tensor: Tensor) -> None:
    """As `finetune.network.network.fingerprint` adds a tensor to its hash."""
    kind, shape, values = tensor
    digest.update(f"{name}\ttorch.{TYPES[kind][0]}\t{list(shape)}\n".encode())
    digest.update(values)


def _differences(tensors: Mapping[str, Tensor], n_classes: int, shown: str) -> Iterator[str]:
    import numpy as np

    wanted = state_shapes(n_classes)
    for name in sorted(wanted.keys() - tensors.keys()):
        yield f"{shown}: {name} is missing."
    for name in sorted(tensors.keys() - wanted.keys()):
        yield f"{shown}: {strict_json.short(name)} is no tensor of ResNet-18."
    for name in sorted(wanted.keys() & tensors.keys()):
        kind, shape, values = tensors[name]
        is_counter = name.endswith(COUNTER)
        if shape != wanted[name] or kind != ("I64" if is_counter else "F32"):
            yield f"{shown}: {name} is {kind} {list(shape)}, but ResNet-18's is {list(wanted[name])}."
        elif not is_counter and "running" not in name and not np.isfinite(np.frombuffer(values, "<f4")).all():
            # Not the running statistics: a variance that overflows leaves finite losses.
            yield f"{shown}: {name} has values that are not finite."
