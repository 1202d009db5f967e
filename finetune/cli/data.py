"""`finetune data prepare`, `list` and `clear`."""

from __future__ import annotations

import dataclasses

import click

from finetune.cli.command import Command
from finetune.cli.options import IMAGE_OPTIONS, cache_limit, takes_config
from finetune.config.experiment import ExperimentConfig
from finetune.errors import sized


@click.group()
def data() -> None:
    """Manage the decoded images cached in ~/.cache/finetune (or below XDG_CACHE_HOME)."""


@data.command(cls=Command, examples=("finetune data prepare --dataset photos --image-size 64",))
@takes_config(*IMAGE_OPTIONS, "weights")
@cache_limit
def prepare(config: ExperimentConfig) -> None:
    """Download what an experiment needs, and decode and cache its images, so that later runs need not."""
    from finetune.data.prepare import prepare_images
    from finetune.data.split_dataset import split_dataset
    from finetune.network.weights import IMAGENET_URL, fetch
    from finetune.run.prepare import find_weights
    from finetune.system.console import Reporter
    from finetune.system.host import choose_threads

    if find_weights(config) == "imagenet":  # before the images are decoded, which takes longer
        click.echo(f"Pretrained weights: {fetch(IMAGENET_URL)}")
    workers = config.workers or choose_threads(None)
    config = dataclasses.replace(config, store="disk")
    prepare_images(config, split_dataset(config, workers), Reporter(), workers)


@data.command("list", cls=Command)
def list_() -> None:
    """List the cached data: number of images, size, time of last use."""
    from finetune.data.cache import cache_folder, entries

    found = entries()
    for entry in found:
        size = sized(entry.n_bytes)
        click.echo(f"{entry.name:<45}{entry.n_images:>10,}{size:>14}  {entry.used_at:%Y-%m-%d %H:%M}")
    click.echo(f"{sized(sum(entry.n_bytes for entry in found))} in {cache_folder()}")


@data.command(cls=Command)
@click.argument("names", nargs=-1)
def clear(names: tuple[str, ...]) -> None:
    """Delete cached data: the entries with these NAMES, or all of them."""
    from finetune.data.cache import clear as clear_cache

    click.echo(f"{sized(clear_cache(names))} freed")
