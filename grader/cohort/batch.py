"""Grade several submissions, in parallel if asked; one that crashes its process loses only its own grade."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType

from grader.grading.grade import Job, crashed, grade_safely
from grader.grading.verdict import Grade


def stop_on_sigterm() -> None:
    """Let SIGTERM, and the loss of the terminal, end this process as Ctrl-C does: it removes its folders."""
    signal.signal(signal.SIGTERM, _end)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup ignores it
        signal.signal(signal.SIGHUP, _end)


def _end(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one would interrupt the removal of temporary folders
    sys.exit(128 + number)


def _stop_when_told() -> None:
    """In a process of the pool: leave what reaches the group, such as Ctrl-C, to the parent's SIGTERM."""
    stop_on_sigterm()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def graded_in_order(work: Sequence[Job], jobs: int) -> Iterator[Grade]:
    """Grade `jobs` submissions at a time, and yield the grades in order."""
    if jobs == 1 or len(work) == 1:
        yield from map(grade_safely, work)
        return
    from concurrent import futures

    with futures.ProcessPoolExecutor(min(jobs, len(work)), initializer=_stop_when_told) as pool:
        try:
            for job, future in [(job, pool.submit(_graded, job)) for job in work]:
                try:
                    yield future.result()
                except futures.BrokenExecutor:
                    yield _in_own_process(job)
        except BaseException:
            for process in multiprocessing.active_children():  # interrupted: do not finish the batch first
                process.terminate()
            pool.shutdown(cancel_futures=True)
            raise


def _graded(job: Job) -> Grade:
    """In a process of the pool: after SIGTERM, end it instead of beginning another submission."""
    try:
        return grade_safely(job)
    except SystemExit as end:
        os._exit(int(end.code or 0))  # what the submission opened is closed and removed by now


def _in_own_process(job: Job) -> Grade:
    """Retry in a separate process: a broken pool does not say which run broke it."""
    from concurrent import futures

    with futures.ProcessPoolExecutor(1) as pool:
        try:
            return pool.submit(grade_safely, job).result()
        except futures.BrokenExecutor as error:
            return crashed(job, error)
