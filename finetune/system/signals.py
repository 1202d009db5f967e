"""Ctrl-C and SIGTERM: end at the next safe point; a second one ends at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(BaseException):
    """The user or the machine asked the job to end. Not an Exception, so that no handler swallows it.

    Args:
        number: of the signal; the exit code is 128 plus it, as shells have it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class StopRequest:
    """Remembers a signal until the work reaches a point where it can be stopped without loss.

    Outside `deferred()` a signal raises `Stopped` at once: nothing is lost there.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._deferring = False

    def install(self) -> None:
        """Take over SIGINT and SIGTERM for this process."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._receive)

    def check(self) -> None:
        """Raise `Stopped` if a signal has come; called where the work can be interrupted."""
        if self.number is not None:
            raise Stopped(self.number)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within, a first signal only waits for the next `check()`."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.number is not None:
            os._exit(128 + number)  # asked twice: no clean-up that could hang
        self.number = number
        if not self._deferring:
            raise Stopped(number)
