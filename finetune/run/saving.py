"""When the checkpoints of a run or a trial are written, and by which process."""

from __future__ import annotations

import time

from finetune.distributed.world import World
from finetune.errors import RunFolderError
from finetune.run.folder import RunFolder
from finetune.system.signals import StopRequest
from finetune.training.checkpoint import Checkpoints
from finetune.training.trainer import Trainer

CHECKPOINT_SECONDS = 300.0
"""Within an epoch, a checkpoint is written this often."""

EPOCH_SECONDS = 30.0
"""After an epoch, a checkpoint is written if the last one, or the start, was at least this long ago.

Writing one takes about a second of a core, a tenth of the time if epochs take six seconds on two cores
(docs/benchmarks.md). So it takes at most 3%, and a crash costs at most half a minute more.
"""


class Saving:
    """Decides when the checkpoints of a run are written, and lets rank 0 write them.

    Args:
        checkpoints: of this run or trial.
        folder: its run folder.
        stop: asked whether to end early.
        world: the processes that train together.
        started: `time.perf_counter()` when the run was started or resumed.
    """

    def __init__(
        self, checkpoints: Checkpoints, folder: RunFolder, stop: StopRequest, world: World, started: float
    ) -> None:
        self.checkpoints = checkpoints
        self.folder = folder
        self.stop = stop
        self.world = world
        self.started = self.saved = started

    def save(self, trainer: Trainer) -> None:
        """Write a checkpoint, on rank 0; all processes must call it together."""
        self.saved = time.perf_counter()
        trainer.settle()
        if self.folder.writes:
            self.checkpoints.save(trainer, trainer.training.seconds + self.saved - self.started)

    def step_ended(self, trainer: Trainer) -> None:
        """After a step: raise what kept a checkpoint from being written, stop if asked to, save if due."""
        self.checkpoints.check()
        self.world.raise_if_stopped(self.stop)
        self._save_if_older(CHECKPOINT_SECONDS, trainer)

    def epoch_ended(self, trainer: Trainer) -> None:
        """After an epoch: keep the network if it is the best so far, save if due, stop if asked to."""
        if self.folder.writes:
            self.checkpoints.epoch_ended(trainer)
        self._save_if_older(EPOCH_SECONDS, trainer)
        self.world.raise_if_stopped(self.stop)

    def _save_if_older(self, seconds: float, trainer: Trainer) -> None:
        (due,) = self.world.all_reduce_max(time.perf_counter() - self.saved >= seconds)
        if due:
            self.save(trainer)

    def require_same_start(self, trainer: Trainer) -> None:
        """Check that all processes continue from the same step.

        Raises:
            RunFolderError: they do not.
        """
        if not self.world.all_equal(trainer.training.steps):
            raise RunFolderError(
                f"All processes must find the same checkpoints, but they differ; put {self.folder.path} on a "
                "volume that all processes share."
            )
