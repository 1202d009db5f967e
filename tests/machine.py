"""What the tests ask of the machine."""

from __future__ import annotations

import os


def use_one_core() -> None:
    """Keep this process and its children on one core, and so PyTorch to one thread.

    Some tests fork a process that has run PyTorch, and a pool of threads does not survive a fork: the child
    would wait for ever for threads that it does not have.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
