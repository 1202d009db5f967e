"""The process group that connects processes of one job, and what they say when one of them ends early."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from finetune.distributed.launcher import LaunchInfo, assign
from finetune.errors import FinetuneError
from finetune.system.signals import StopRequest

CONNECT_TIMEOUT = timedelta(minutes=10)
"""The processes must connect to one another within this time."""

WAIT_TIMEOUT = timedelta(days=7)
"""At the end they wait this long for one another: they finish hours apart."""

POLL_SECONDS = 0.2
MESSAGE_CHARACTERS = 1000
MESSAGE_BYTES = 12 * MESSAGE_CHARACTERS + 2
"""JSON writes a character as at most two escapes of six bytes, and adds quotation marks."""

LOST = ("onnection closed by peer", "onnection reset by peer", "NCCL", "gloo", "Broken pipe")
"""In the text of a RuntimeError when another process has died: gloo's and NCCL's words."""


T = TypeVar("T")


class ParallelError(FinetuneError):
    """Processes that should work together cannot, or not all of them succeeded."""


class PeerError(ParallelError):
    """Another process failed, and all have been told."""


@contextmanager
def connect(info: LaunchInfo) -> Iterator[dist.ProcessGroup | None]:
    """Connect the processes for the duration of the job; None if they cannot reach one another.

    They connect at the start, not when they first need it: when a process dies its connections close, so the
    others notice as soon as they wait for it.

    Raises:
        ParallelError: they do not find one another.
    """
    if not info.connected:
        yield None
        return
    try:
        # Two timeouts, so two groups: no process waits for one that never appears as long as for training.
        dist.init_process_group("gloo", timeout=CONNECT_TIMEOUT, rank=info.rank, world_size=info.world_size)
        group = dist.new_group(timeout=WAIT_TIMEOUT)
        assert isinstance(group, dist.ProcessGroup)  # noqa: S101 - every process is in it
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ParallelError(
            f"The {info.world_size} processes must connect within {CONNECT_TIMEOUT.seconds // 60} minutes, "
            f"but process {info.rank} could not ({reason}); see the messages of the others, and check "
            "MASTER_ADDR and MASTER_PORT."
        ) from error
    yield group
    # Not after an exception: it waits for pending operations, up to `WAIT_TIMEOUT`.
    dist.destroy_process_group()


@contextmanager
def peer_errors(advice: str) -> Iterator[None]:
    """Turn what PyTorch raises when a connected process has died into a sentence with the advice."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(word in str(error) for word in LOST):
            raise
        raise ParallelError(
            f"A worker process died (the launcher's output says which); finished work is kept: {advice}."
        ) from error


def gather_failures(
    group: dist.ProcessGroup | None, failure: str | None, stop: StopRequest
) -> list[str | None]:
    """Wait for every process, and exchange why any of them failed.

    Args:
        group: from `connect`.
        failure: why this process failed, None if it did not; cut to `MESSAGE_CHARACTERS`.
        stop: asked whether to end early.

    Returns:
        The failures by rank; only this process's own if they are not connected.

    Raises:
        ParallelError: one has died.
    """
    if group is None:
        return [failure]
    return _gather(group, failure and failure[:MESSAGE_CHARACTERS], MESSAGE_BYTES, stop)


def raise_failures(failures: Sequence[str | None]) -> None:
    """Raise an error if any process has failed.

    Args:
        failures: by rank, from `gather_failures`.

    Raises:
        PeerError: with the sentence of the first that has.
    """
    for rank, failure in enumerate(failures):
        if failure is not None:
            raise PeerError(
                f"Process {rank} failed, so the runs are not merged: {failure.rstrip('.')}; fix that "
                "and start the same command again to resume."
            )


class Peers:
    """The processes of a job that train different things, as one of them sees them.

    Args:
        info: which process this is.
        group: from `connect`.
        stop: asked whether to end early.
    """

    def __init__(self, info: LaunchInfo, group: dist.ProcessGroup, stop: StopRequest) -> None:
        self.info = info
        self.group = group
        self.stop = stop

    def share(self, items: Sequence[T]) -> list[T]:
        """The items that this process works on; each is one process's."""
        return assign(items, self.info)

    def exchange(self, value: Any) -> list[Any]:
        """Wait for every process; the JSON values that they passed, by rank.

        Raises:
            PeerError: one has failed; it has told so by `gather_failures`, with which this begins.
            ParallelError: one has died.
        """
        raise_failures(gather_failures(self.group, None, self.stop))
        sizes = _gather(self.group, len(json.dumps(value)), MESSAGE_BYTES, self.stop)
        return _gather(self.group, value, max(sizes), self.stop)


def _gather(group: dist.ProcessGroup, value: Any, n_bytes: int, stop: StopRequest) -> list[Any]:
    """Wait for every process; the JSON values that they passed, by rank, each of at most `n_bytes`."""
    own = torch.frombuffer(bytearray(json.dumps(value).encode().ljust(n_bytes)), dtype=torch.uint8)
    messages = [torch.empty_like(own) for _ in range(group.size())]
    with peer_errors("start the same command again to resume"):
        work = dist.all_gather(messages, own, group=group, async_op=True)
        assert work is not None  # noqa: S101 - an asynchronous one always is
        while not work.is_completed():  # waiting in C++ would block signals
            stop.check()
            time.sleep(POLL_SECONDS)
        work.wait()
    return [json.loads(bytes(message.tolist())) for message in messages]
