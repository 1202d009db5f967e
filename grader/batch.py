"""Grade several submissions, in parallel if asked; one that crashes its process loses only its own grade."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence

from grader.grade import Job, crashed, grade_safely
from grader.verdict import Grade


def stop_on_sigterm() -> None:
    """Let SIGTERM end this process as Ctrl-C does, so that temporary folders are removed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def graded_in_order(work: Sequence[Job], jobs: int) -> Iterator[Grade]:
    """Grade `jobs` submissions at a time, and yield the grades in order."""
    if jobs == 1 or len(work) == 1:
        yield from map(grade_safely, work)
        return
    from concurrent import futures

    with futures.ProcessPoolExecutor(min(jobs, len(work)), initializer=stop_on_sigterm) as pool:
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
