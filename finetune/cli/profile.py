"""`finetune profile`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import click

from finetune.cli.command import Command
from finetune.cli.options import OPTIONS, begin_training, cache_limit, takes_config
from finetune.config.experiment import ExperimentConfig


@click.command(cls=Command, examples=("finetune profile --dataset photos --variants c",))
@takes_config(*(name for name in OPTIONS if name != "tune"), epochs=2)
@cache_limit
def profile(config: ExperimentConfig) -> Mapping[str, Any]:
    """Show where the time of a short run goes. Writes no run folder."""
    config = dataclasses.replace(config, tune=None)  # a preset's; trials take the time that their runs take
    stop = begin_training(config)
    from finetune.run.profile import profile_run
    from finetune.system.reporters import reporter_for

    return profile_run(config, reporter_for(), stop)
