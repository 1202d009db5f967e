"""Ctrl-C and SIGTERM: at the next safe point, and at once when asked twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from finetune.system.signals import Stopped, StopRequest

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Put the handlers back that pytest had."""
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def stop() -> StopRequest:
    made = StopRequest()
    made.install()
    return made


@BOTH
def test_at_once_where_nothing_is_lost(stop: StopRequest, number: int) -> None:
    with pytest.raises(Stopped) as caught:
        os.kill(os.getpid(), number)
    assert caught.value.number == number
    assert stop.number == number


@BOTH
def test_at_the_next_check_while_work_is_under_way(stop: StopRequest, number: int) -> None:
    steps: list[object] = []

    def work() -> None:
        for step in range(5):
            steps.append(step)
            if step == 2:
                os.kill(os.getpid(), number)
                steps.append("the step is finished")
            stop.check()

    with pytest.raises(Stopped) as caught, stop.deferred():
        work()
    assert steps == [0, 1, 2, "the step is finished"]
    assert caught.value.number == number


def test_deferral_ends_with_the_block(stop: StopRequest) -> None:
    with pytest.raises(KeyError), stop.deferred():
        raise KeyError
    with pytest.raises(Stopped):
        os.kill(os.getpid(), signal.SIGINT)


def test_no_signal_no_stop(stop: StopRequest) -> None:
    stop.check()
    assert stop.number is None


def test_no_handler_swallows_it() -> None:
    assert not issubclass(Stopped, Exception)


def test_other_threads_may_not_install_handlers() -> None:
    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=StopRequest().install)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before


@BOTH
def test_a_second_one_ends_at_once(number: int) -> None:
    program = (
        "import os, sys, time\nfrom finetune.system.signals import StopRequest\n"
        "stop = StopRequest()\nstop.install()\n"
        "with stop.deferred():\n"
        f"    os.kill(os.getpid(), {int(number)})\n    print('still here', flush=True)\n    time.sleep(1.1)\n"
        f"    os.kill(os.getpid(), {int(number)})\n    time.sleep(60)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=30, check=False)
    assert ended.stdout == b"still here\n"
    assert ended.returncode == 128 + number
    assert ended.stderr == b""


@BOTH
def test_one_that_is_delivered_twice_is_one(stop: StopRequest, number: int) -> None:
    with stop.deferred():
        for _ in range(3):
            os.kill(os.getpid(), number)
        with pytest.raises(Stopped):
            stop.check()


@BOTH
def test_a_signal_that_has_to_wait_is_acknowledged_at_once(number: int) -> None:
    said: list[str] = []
    stop = StopRequest(lambda: said.append("stopping"))
    stop.install()
    with stop.deferred():
        os.kill(os.getpid(), number)
        assert said == ["stopping"]


def test_a_signal_that_stops_at_once_needs_no_acknowledgment() -> None:
    said: list[str] = []
    stop = StopRequest(lambda: said.append("stopping"))
    stop.install()
    with pytest.raises(Stopped):
        os.kill(os.getpid(), signal.SIGINT)
    assert said == []


def test_the_acknowledgment_may_interrupt_a_write_to_the_same_stream() -> None:
    """A handler that printed through sys.stderr would raise RuntimeError: reentrant call."""
    program = (
        "import os, signal, sys\nfrom finetune.system.console import Reporter\n"
        "from finetune.system.signals import StopRequest\n"
        "stop = StopRequest(Reporter().stopping)\nstop.install()\n"
        "class Raw:\n"
        "    def write(self, text):\n        os.kill(os.getpid(), signal.SIGINT)\n        return len(text)\n"
        "    def flush(self): pass\n"
        "sys.stderr = Raw()\n"
        "with stop.deferred():\n    print('x', file=sys.stderr)\n"
        "print('went on')\n"
    )
    # The second write of print() would be a second signal.
    program = program.replace("os.kill(os.getpid(), signal.SIGINT)", "stop.number or os.kill(os.getpid(), 2)")
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    assert ended.stdout == b"went on\n"
    assert ended.stderr.startswith(b"Stopping after this step")
