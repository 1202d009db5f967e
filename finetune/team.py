"""Several processes that train one network together: PyTorch's DistributedDataParallel, or one process alone.

Every process holds the whole network and takes its share of every batch; gradients are averaged, so that a
step is the one that a single process would take on the whole batch, but for batch normalisation: each process
normalises its share by the share's own statistics, and the first one's running statistics are everyone's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from finetune.evaluate import Predictions
from finetune.signals import Stopped, StopRequest


class Team:
    """One process alone: what the processes of a team do together costs it nothing.

    Args:
        local_size: processes that share this machine's cores.
    """

    rank = 0
    size = 1

    def __init__(self, local_size: int = 1) -> None:
        self.local_size = local_size

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network as training steps call it."""
        return network

    def share(self, batch: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """This process's part of a batch."""
        return np.array_split(batch, self.size)[self.rank]

    def span(self, n: int) -> slice:
        """This process's part of n images to evaluate: nothing is padded, nothing counted twice."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def total(self, *sums: torch.Tensor) -> list[float]:
        """Each process's sums added up, in float64; waits for the device."""
        return [float(s.item()) for s in sums]

    def agree(self, *numbers: int) -> list[int]:
        """The largest of each number that any process names."""
        return list(numbers)

    def same(self, value: Any) -> bool:
        """Whether all processes name the same value, anything that JSON can spell."""
        digest = int(hashlib.sha256(json.dumps(value).encode()).hexdigest()[:15], 16)
        negative_smallest, largest = self.agree(-digest, digest)
        return -negative_smallest == largest

    def check(self, stop: StopRequest) -> None:
        """Raise `Stopped` if a signal has come."""
        stop.check()

    def spread(self, buffers: Iterable[torch.Tensor]) -> None:
        """Give the first process's buffers to all."""

    def collect(self, part: Predictions) -> Predictions:
        """The predictions of all processes behind each other."""
        return part


ALONE = Team()


class DataParallel(Team):
    """This process among those of a process group.

    Args:
        group: for what the processes tell each other; gloo.
        local_size: processes that share this machine's cores.
    """

    def __init__(self, group: distributed.ProcessGroup, local_size: int) -> None:
        super().__init__(local_size)
        self.group = group
        self.rank, self.size = group.rank(), group.size()
        # Gradients go from GPU to GPU.
        self.device_group: Any = distributed.new_group(backend="nccl") if torch.cuda.is_available() else group

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network with its gradients averaged over the processes."""
        return DistributedDataParallel(network, process_group=self.device_group)

    def total(self, *sums: torch.Tensor) -> list[float]:
        """Each process's sums added up, in float64; waits for the device."""
        together = torch.stack([s.double() for s in sums]).cpu()
        distributed.all_reduce(together, group=self.group)
        found: list[float] = together.tolist()
        return found

    def agree(self, *numbers: int) -> list[int]:
        """The largest of each number that any process names."""
        together = torch.tensor(numbers, dtype=torch.int64)
        distributed.all_reduce(together, distributed.ReduceOp.MAX, group=self.group)
        return [int(n) for n in together]

    def check(self, stop: StopRequest) -> None:
        """Raise `Stopped` in all processes if a signal has come to any."""
        (number,) = self.agree(stop.number or 0)
        if number:
            raise Stopped(number)

    def spread(self, buffers: Iterable[torch.Tensor]) -> None:
        """Give the first process's buffers to all."""
        for buffer in buffers:
            distributed.broadcast(buffer, 0, group=self.device_group)

    def collect(self, part: Predictions) -> Predictions:
        """The predictions of all processes behind each other."""
        parts: list[Predictions] = [part] * self.size
        distributed.all_gather_object(parts, part, group=self.group)
        return Predictions(
            np.concatenate([p.predicted for p in parts]), np.concatenate([p.nll for p in parts])
        )
