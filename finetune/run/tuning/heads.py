"""Heads of trials, from which the trials of a variant start whose head comes from another one.

The variant that gives the head is tuned first. Its trials keep the head of their best epoch in `state/`, and
the trials of the other variant start from that of the trial it chose: as in the final runs, but at the
tuning seed.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError

from finetune.distributed.group import Peers
from finetune.errors import RunFolderError
from finetune.network.network import Network, State
from finetune.network.resnet18 import HEAD
from finetune.run.folder import RunFolder
from finetune.run.records import Json
from finetune.run.tuning.search import Key, Plan, Trial
from finetune.system.files import write_atomically

N_DIGEST = hashlib.sha256().digest_size


class TrialHeads:
    """The heads that a run folder keeps while its trials run.

    Args:
        folder: whose state the files belong to.
        plan: of the trials.
    """

    def __init__(self, folder: RunFolder, plan: Plan) -> None:
        self.folder = folder
        self.plan = plan

    def keep(self, trial: Trial, epoch: int, network: Network) -> None:
        """Write the head after an epoch that is the trial's best so far, if another variant needs heads.

        The name has the epoch: a trial that resumes from an earlier checkpoint finds the head that was the
        best by then.

        Raises:
            RunFolderError: the file cannot be written.
        """
        if self.folder.writes and self.plan.gives_head(trial.variant):
            state = network.state_dict()
            content = safetensors.torch.save({name: state[name].cpu().contiguous() for name in HEAD})
            self._write(self._file(trial, epoch), content)

    def start_of(self, trial: Trial, outcomes: Mapping[Key, Json]) -> State | None:
        """The head that a trial starts from; None if it draws its own.

        Raises:
            RunFolderError: the file is missing or damaged.
        """
        file = self._source(trial, outcomes)
        if file is None:
            return None
        content = self._read(file)
        try:
            if content is not None:
                return safetensors.torch.load(content)
        except SafetensorError:
            pass
        raise RunFolderError(
            f"{file} must hold the head that the trials of {trial.variant} start from, but it is missing or "
            "damaged; start a new run."
        )

    def share(self, pending: Iterable[Trial], outcomes: Mapping[Key, Json], peers: Peers) -> None:
        """Give every process the heads that trials to come start from: one process alone has trained each.

        Raises:
            PeerError: another process failed.
            ParallelError: one has died.
        """
        needed = {file.name: file for trial in pending if (file := self._source(trial, outcomes))}
        if not needed:
            return
        own = {name: content for name, file in needed.items() if (content := self._read(file)) is not None}
        told = peers.exchange({name: base64.b64encode(content).decode() for name, content in own.items()})
        for name, text in (pair for heads in told for pair in heads.items()):
            if name in needed and name not in own:
                self._write(needed[name], base64.b64decode(text))

    def _source(self, trial: Trial, outcomes: Mapping[Key, Json]) -> Path | None:
        target = (self.plan.by_name[trial.variant], trial.for_seed)
        source = self.plan.head_of(target, outcomes)
        if source is None:
            return None
        epochs = outcomes[source.key]["validation"]
        best = min(range(len(epochs)), key=lambda i: (-epochs[i]["n_correct"], epochs[i]["loss_sum"]))
        return self._file(source, best + 1)

    def _file(self, trial: Trial, epoch: int) -> Path:
        return self.folder.state / f"{trial.stem}.head{epoch}"

    def _write(self, file: Path, content: bytes) -> None:
        write_atomically(file, hashlib.sha256(content).digest() + content)

    def _read(self, file: Path) -> bytes | None:
        """The content; None if it is missing or damaged."""
        try:
            digest, content = (whole := file.read_bytes())[:N_DIGEST], whole[N_DIGEST:]
        except OSError:
            return None
        return content if hashlib.sha256(content).digest() == digest else None
