"""Further passes over a first epoch, for their seconds alone: the grader compares those of the variants."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

from finetune.evidence.budget import DoesNotFit, StepEnded
from finetune.run.records import Json
from finetune.training.trainer import Trainer

N_ROUNDS = 2
"""With the epoch that is compared, three passes; the least time counts."""


class _Over(Exception):  # noqa: N818 - no error
    """The pass is over, and its evaluation begins."""


def repeats(
    entries: Iterable[Json], started: Callable[[Json], tuple[Trainer, Json, StepEnded]]
) -> list[Json]:
    """Seconds of passes over the first epoch of one run of each variant, in rounds.

    In rounds, so that the load of the machine slows all variants alike. Features that a variant's earlier
    pass cached are in memory here, too.

    Args:
        entries: runs, as in the results; the first one of each variant is trained.
        started: a trainer at the start of a run, what the results say of it, and what to call after a step.

    Returns:
        For each pass `variant`, `train_seconds` and `train_cpu_seconds`; fewer if time runs out.
    """
    by_variant: dict[str, Json] = {}
    for entry in entries:
        by_variant.setdefault(entry["variant"], entry)
    found: list[Json] = []
    with contextlib.suppress(DoesNotFit):
        for _ in range(N_ROUNDS):
            for variant, entry in by_variant.items():
                trainer, _, step_ended = started(entry)
                found.append({"variant": variant, **_pass(trainer, step_ended)})
    return found


def _pass(trainer: Trainer, step_ended: StepEnded) -> Json:
    """Train for an epoch, without the evaluation after it."""
    interrupt = trainer.batch_evaluated

    def evaluation_begins() -> None:
        interrupt()
        raise _Over

    trainer.batch_evaluated = evaluation_begins
    with contextlib.suppress(_Over):
        trainer.run(lambda _: None, step_ended)
    spent = trainer.training.current
    return {"train_seconds": spent.seconds, "train_cpu_seconds": spent.cpu_seconds}
