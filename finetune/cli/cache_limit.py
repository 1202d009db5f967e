"""`--cache-limit`, for the commands that decode images."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import click


def _set_limit(_context: click.Context, _option: click.Parameter, size: str | None) -> None:
    if size is None:
        return
    from finetune.system.files import parse_size

    parse_size(size, "--cache-limit")
    # Not in the configuration, because it changes no result; and set without data.cache, which imports torch.
    os.environ["FINETUNE_CACHE_LIMIT"] = size


def cache_limit(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option to a command, whose function does not receive it."""
    return click.option(
        "--cache-limit",
        metavar="SIZE",
        expose_value=False,
        callback=_set_limit,
        help="Remove the least recently used images from the cache above this size, such as 500MB.  "
        "[default: FINETUNE_CACHE_LIMIT, else 10GB]",
    )(command)
