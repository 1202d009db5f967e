"""Which of how many processes this one is, as torchrun, SLURM or Kubernetes says, and what it trains."""

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
class Ranks:
    """Which of how many processes this one is.

    Args:
        rank: its number, from 0.
        world: how many there are.
        local_rank: its number on this machine, for the choice of a GPU.
        local_world: how many share this machine's cores.
        connected: whether they can reach one another.
    """

    rank: int
    world: int
    local_rank: int = 0
    local_world: int = 1
    connected: bool = False


def ranks(environ: Mapping[str, str] = os.environ) -> Ranks:
    """What the launcher says: torchrun, else srun, a SLURM array or a Kubernetes Indexed Job.

    Raises:
        ConfigError: there is none, or what it says makes no sense.
    """

    def whole(name: str) -> int:
        value = environ.get(name)
        if value is None or re.fullmatch("[0-9]{1,9}", value) is None:
            given = "is not set" if value is None else f"is {value!r}"
            raise ConfigError(
                f"--parallel needs the process's number and how many there are, and {name} must be a whole "
                f"number for that, but it {given}; start the processes with {LAUNCHERS}."
            )
        return int(value)

    local_rank, local_world, connected = 0, 1, False
    if "JOB_COMPLETION_INDEX" in environ and "RANK" not in environ:
        rank, world = whole("JOB_COMPLETION_INDEX"), whole("WORLD_SIZE")
    elif "RANK" not in environ and environ.get("SLURM_NTASKS", "1") != "1":
        # SLURM itself gives each task its cores.
        rank, world, local_rank = whole("SLURM_PROCID"), whole("SLURM_NTASKS"), whole("SLURM_LOCALID")
        connected = "MASTER_ADDR" in environ
    elif "RANK" not in environ and "SLURM_ARRAY_TASK_ID" in environ:
        rank = whole("SLURM_ARRAY_TASK_ID") - whole("SLURM_ARRAY_TASK_MIN")
        world = whole("SLURM_ARRAY_TASK_COUNT")
    else:
        rank, world = whole("RANK"), whole("WORLD_SIZE")
        if "LOCAL_RANK" in environ:
            local_rank, local_world = whole("LOCAL_RANK"), whole("LOCAL_WORLD_SIZE")
        connected = "MASTER_ADDR" in environ
    if not 0 <= rank < world:
        raise ConfigError(
            "A process's number must be from 0 to one less than how many there are, but the environment "
            f"says {rank} of {world}; start the processes with {LAUNCHERS}."
        )
    if connected:
        whole("MASTER_PORT")
    return Ranks(rank, world, local_rank, local_world, connected)


def deal(pairs: Sequence[T], ranks: Ranks) -> list[T]:
    """The pairs that this process trains."""
    return list(pairs[ranks.rank :: ranks.world])
