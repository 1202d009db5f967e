"""The processes that train one network together: PyTorch's DistributedDataParallel, or a single process.

Every process holds the whole network and trains on its shard of every batch. Gradients are averaged, so a
step equals the one that a single process would take on the whole batch, except for batch normalization: each
process normalizes its shard by the shard's own statistics, and all of them use rank 0's running statistics.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from finetune.system.signals import Stopped, StopRequest

Values = TypeVar("Values", bound=np.generic)


class World(ABC):
    """What one process knows of the others, and the collective operations that all of them call together.

    Args:
        rank: this process's number, from 0.
        size: number of processes.
        local_size: processes that share this machine's cores.
    """

    def __init__(self, rank: int, size: int, local_size: int) -> None:
        self.rank = rank
        self.size = size
        self.local_size = local_size

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def shard(self, batch: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """This process's part of a batch."""
        return np.array_split(batch, self.size)[self.rank]

    def shard_range(self, n: int) -> slice:
        """This process's part of n images to evaluate: nothing is padded, nothing counted twice."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def all_equal(self, value: Any) -> bool:
        """Whether all processes pass the same JSON-serializable value."""
        digest = int(hashlib.sha256(json.dumps(value).encode()).hexdigest()[:15], 16)
        negated_min, maximum = self.all_reduce_max(-digest, digest)
        return -negated_min == maximum

    @abstractmethod
    def wrap(self, network: nn.Module) -> nn.Module:
        """The network as training steps call it."""

    @abstractmethod
    def all_reduce_sum(self, *values: torch.Tensor) -> list[float]:
        """Each scalar summed over the processes, in float64; synchronizes with the device."""

    @abstractmethod
    def all_reduce_max(self, *values: int) -> list[int]:
        """The maximum of each number over the processes."""

    @abstractmethod
    def broadcast(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrite the tensors with rank 0's."""

    @abstractmethod
    def all_gather(self, values: npt.NDArray[Values]) -> npt.NDArray[Values]:
        """The arrays of all processes, concatenated in the order of ranks."""

    @abstractmethod
    def raise_if_stopped(self, stop: StopRequest) -> None:
        """Raise `Stopped` in every process if any of them has received a signal."""


class SingleProcess(World):
    """One process on its own, for which every collective operation is the identity.

    Args:
        local_size: processes of other worlds that share this machine's cores, this one included.
    """

    def __init__(self, local_size: int = 1) -> None:
        super().__init__(0, 1, local_size)

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network itself."""
        return network

    def all_reduce_sum(self, *values: torch.Tensor) -> list[float]:
        """The values themselves; synchronizes with the device."""
        return [float(v.item()) for v in values]

    def all_reduce_max(self, *values: int) -> list[int]:
        """The values themselves."""
        return list(values)

    def broadcast(self, tensors: Iterable[torch.Tensor]) -> None:
        """Nothing to do."""

    def all_gather(self, values: npt.NDArray[Values]) -> npt.NDArray[Values]:
        """The array itself."""
        return values

    def raise_if_stopped(self, stop: StopRequest) -> None:
        """Raise `Stopped` if this process has received a signal."""
        stop.check()


class DataParallel(World):
    """This process as a member of a process group.

    Args:
        group: gloo, for everything but gradients and buffers.
        local_size: processes that share this machine's cores.
        on_gpu: whether the network is on a GPU; then gradients and buffers go from GPU to GPU.
    """

    def __init__(self, group: distributed.ProcessGroup, local_size: int, on_gpu: bool = False) -> None:
        super().__init__(group.rank(), group.size(), local_size)
        self.group = group
        self.device_group: Any = distributed.new_group(backend="nccl") if on_gpu else group

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network with its gradients averaged over the processes."""
        return DistributedDataParallel(network, process_group=self.device_group)

    def all_reduce_sum(self, *values: torch.Tensor) -> list[float]:
        """Each scalar summed over the processes, in float64; synchronizes with the device."""
        stacked = torch.stack([v.double() for v in values]).cpu()
        distributed.all_reduce(stacked, group=self.group)
        sums: list[float] = stacked.tolist()
        return sums

    def all_reduce_max(self, *values: int) -> list[int]:
        """The maximum of each number over the processes."""
        stacked = torch.tensor(values, dtype=torch.int64)
        distributed.all_reduce(stacked, distributed.ReduceOp.MAX, group=self.group)
        return [int(n) for n in stacked]

    def broadcast(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrite the tensors with rank 0's."""
        for tensor in tensors:
            distributed.broadcast(tensor, 0, group=self.device_group)

    def all_gather(self, values: npt.NDArray[Values]) -> npt.NDArray[Values]:
        """The arrays of all processes, concatenated in the order of ranks."""
        gathered = [values] * self.size
        distributed.all_gather_object(gathered, values, group=self.group)
        return np.concatenate(gathered)

    def raise_if_stopped(self, stop: StopRequest) -> None:
        """Raise `Stopped` in every process if any of them has received a signal."""
        (number,) = self.all_reduce_max(stop.number or 0)
        if number:
            raise Stopped(number)
