"""Seconds for epochs trained again: measured, so that no run decides by its claims what is left out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

FEWEST_STEPS = 4
"""Steps after the first, which also warms up, from which the duration of the others is projected."""


StepEnded = Callable[[int], None]
"""What a trainer calls with the number of images after each step."""

Item = tuple[str, int, int] | tuple[int, int]
"""What to train: name of a run, first epoch and how many; or index of a trial and how many."""


class DoesNotFit(Exception):  # noqa: N818 - no error
    """The passage would take more seconds than are left."""


class Budget:
    """Seconds that passages may take together.

    Args:
        seconds: from now on.
        clock: tells seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.ends = clock() + seconds
        self.is_used = False
        """Whether a passage has been trained: the first one may take longer than there is, so that every
        replay tells something."""

    def passage(self, n_steps: int) -> Passage:
        """The budget of a passage that begins now and has so many steps."""
        return Passage(self, n_steps)


class Passage:
    """Projects, step by step, when a passage will end."""

    def __init__(self, budget: Budget, n_steps: int) -> None:
        self.budget = budget
        self.n_steps = n_steps
        self.done = 0
        self.since = 0.0

    def step_ended(self, _n_images: int) -> None:
        """Count a step.

        Raises:
            DoesNotFit: at this pace, the passage would end too late.
        """
        now = self.budget.clock()
        self.done += 1
        if self.done == 1:
            self.since = now
        steps = self.done - 1
        left = (now - self.since) / steps * (self.n_steps - self.done) if steps >= FEWEST_STEPS else 0.0
        self._require(now + left)

    def interrupt(self) -> None:
        """Between two batches of anything else than training.

        Raises:
            DoesNotFit: there are no seconds left.
        """
        self._require(self.budget.clock())

    def _require(self, end: float) -> None:
        if self.budget.is_used and end > self.budget.ends:
            raise DoesNotFit


def in_turn(passages: Sequence[tuple[str, int, int]], trials: Sequence[tuple[int, int]]) -> list[Item]:
    """Both in their order, and evenly mixed, so that neither kind is left out rather than the other."""
    placed: list[tuple[float, Item]] = [((i + 0.5) / len(passages), item) for i, item in enumerate(passages)]
    placed += [((i + 0.5) / len(trials), item) for i, item in enumerate(trials)]
    return [item for _, item in sorted(placed, key=lambda pair: pair[0])]


def left_out(item: Item) -> dict[str, str | int | None]:
    """How the record names what did not fit."""
    if len(item) == 2:
        return {"run": None, "trial": item[0], "first": 1}
    return {"run": item[0], "trial": None, "first": item[1]}
