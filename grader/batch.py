"""Grade several submissions, in parallel if asked; one that crashes its process loses only its own grade."""

from collections.abc import Iterator, Sequence

from grader.grade import Job, crashed, grade_safely
from grader.verdict import Grade


def graded_in_order(work: Sequence[Job], jobs: int) -> Iterator[Grade]:
    """Grade `jobs` submissions at a time, and yield the grades in order."""
    if jobs == 1 or len(work) == 1:
        yield from map(grade_safely, work)
        return
    from concurrent import futures

    with futures.ProcessPoolExecutor(min(jobs, len(work))) as pool:
        try:
            for job, future in [(job, pool.submit(grade_safely, job)) for job in work]:
                try:
                    yield future.result()
                except futures.BrokenExecutor:
                    yield _in_own_process(job)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # interrupted: do not grade the rest first
            raise


def _in_own_process(job: Job) -> Grade:
    """Retry in a separate process: a broken pool does not say which run broke it."""
    from concurrent import futures

    with futures.ProcessPoolExecutor(1) as pool:
        try:
            return pool.submit(grade_safely, job).result()
        except futures.BrokenExecutor as error:
            return crashed(job, error)
