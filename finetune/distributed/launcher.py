"""Which process this is and how many there are, as torchrun, SLURM or Kubernetes says; the runs it trains."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from finetune.errors import ConfigError

LAUNCHERS = "torchrun, srun, a SLURM array or a Kubernetes Indexed Job that sets WORLD_SIZE"

T = TypeVar("T")


@dataclass(frozen=True)
class LaunchInfo:
    """This process's part in a job of several.

    Args:
        rank: its number, from 0.
        world_size: number of processes.
        local_rank: its number on this machine, for the choice of a GPU.
        local_world_size: processes that share this machine's cores.
        connected: whether the processes can reach one another.
    """

    rank: int
    world_size: int
    local_rank: int = 0
    local_world_size: int = 1
    connected: bool = False


def launch_info(environ: Mapping[str, str] = os.environ) -> LaunchInfo:
    """Read the launcher's variables: torchrun's, or else those of srun, a SLURM array or an Indexed Job.

    Raises:
        ConfigError: there are none, or they contradict one another.
    """

    def whole(name: str) -> int:
        value = environ.get(name)
        if value is None or re.fullmatch("[0-9]{1,9}", value) is None:
            given = "is not set" if value is None else f"is {value!r}"
            raise ConfigError(
                f"With --parallel the environment variable {name} must be a whole number, but it {given}; "
                f"start the processes with {LAUNCHERS}."
            )
        return int(value)

    local_rank, local_world_size, connected = 0, 1, False
    if "JOB_COMPLETION_INDEX" in environ and "RANK" not in environ:
        rank, world_size = whole("JOB_COMPLETION_INDEX"), whole("WORLD_SIZE")
    elif "RANK" not in environ and environ.get("SLURM_NTASKS", "1") != "1":
        # SLURM itself gives each task its cores.
        rank, world_size, local_rank = whole("SLURM_PROCID"), whole("SLURM_NTASKS"), whole("SLURM_LOCALID")
        connected = "MASTER_ADDR" in environ
    elif "RANK" not in environ and "SLURM_ARRAY_TASK_ID" in environ:
        rank = whole("SLURM_ARRAY_TASK_ID") - whole("SLURM_ARRAY_TASK_MIN")
        world_size = whole("SLURM_ARRAY_TASK_COUNT")
    else:
        rank, world_size = whole("RANK"), whole("WORLD_SIZE")
        if "LOCAL_RANK" in environ:
            local_rank, local_world_size = whole("LOCAL_RANK"), whole("LOCAL_WORLD_SIZE")
        connected = "MASTER_ADDR" in environ
    if not 0 <= rank < world_size:
        raise ConfigError(
            "A process's rank must be from 0 to the number of processes less one, but the environment says "
            f"rank {rank} of {world_size}; start the processes with {LAUNCHERS}."
        )
    if connected:
        whole("MASTER_PORT")
    return LaunchInfo(rank, world_size, local_rank, local_world_size, connected)


def assign(items: Sequence[T], info: LaunchInfo) -> list[T]:
    """The items that this process works on: every `world_size`-th, beginning with its rank."""
    return list(items[info.rank :: info.world_size])
