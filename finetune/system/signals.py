"""Ctrl-C and SIGTERM: the first stops the process at the next safe point, the second at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

REPEATED_SECONDS = 1.0
"""A launcher may deliver a signal twice: SLURM 22.05 repeated SIGTERM after 45 ms. People take longer."""


class Stopped(BaseException):
    """A signal asked the process to stop. Not an Exception, so that `except Exception` does not catch it.

    Args:
        number: the signal's number; the exit code is 128 plus this number, as in shells.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class StopRequest:
    """Remembers a signal until the process reaches a point where it can stop without losing work.

    Outside `deferred()` a signal raises `Stopped` at once, since there is no work to lose.

    Args:
        announce: called by the handler of a signal that has to wait.
    """

    def __init__(self, announce: Callable[[], None] = lambda: None) -> None:
        self.announce = announce
        self.number: int | None = None
        self._received_at = 0.0
        self._deferring = False

    def install(self) -> None:
        """Handle SIGINT and SIGTERM in this process; does nothing outside the main thread."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._receive)

    def check(self) -> None:
        """Raise `Stopped` if a signal has arrived; called wherever it is safe to stop."""
        if self.number is not None:
            raise Stopped(self.number)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside this block, a first signal takes effect at the next `check()`."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.number is not None:
            if time.monotonic() - self._received_at < REPEATED_SECONDS:
                return
            os._exit(128 + number)  # the second signal: no clean-up, which could hang
        self.number, self._received_at = number, time.monotonic()
        if not self._deferring:
            raise Stopped(number)
        self.announce()
