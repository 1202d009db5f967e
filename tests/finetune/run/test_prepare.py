"""What is said while an experiment is prepared."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from finetune.distributed.world import SingleProcess
from finetune.run.prepare import prepare
from finetune.system import host
from tests.builders.config import tiny_config
from tests.builders.runs import RecordingReporter


@pytest.mark.parametrize(
    ("threads", "free", "local_size", "is_said"),
    [(2, 0.9, 1, True), (2, 2.0, 1, False), (1, 0.0, 1, False), (2, 0.9, 2, False)],
)
def test_other_programs_that_use_the_cores_of_threads(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    narrow_weights: Path,
    threads: int,
    free: float,
    local_size: int,
    is_said: bool,
) -> None:
    """The processes of one job are no other programs to one another."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(host.OtherPrograms, "free_cores", lambda _: free)
    reporter = RecordingReporter()
    config = tiny_config(threads=threads, weights=str(narrow_weights))
    prepare(config, reporter, SingleProcess(local_size))
    assert any(line.startswith("Other programs leave 0.9 of ") for line in reporter.said) is is_said
