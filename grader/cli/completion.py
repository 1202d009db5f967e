"""Completion by the shell of `grader explain` and `grader verify`, words of their own to `grader`."""

import os
from collections.abc import Collection

import click
from click.shell_completion import CompletionItem, split_arg_string

VARIABLE = "_GRADER_COMPLETE"
"""Set by the shell's completion function, as click's documentation says how to install it."""


def completed_word(words: Collection[str]) -> str | None:
    """The command whose arguments the shell asks for, or None.

    The environment is left as it would be if that command were the program, so that click completes it.

    Args:
        words: The commands that are words of their own.
    """
    how = os.environ.get(VARIABLE, "")
    if not how.endswith("_complete"):
        return None
    typed = split_arg_string(os.environ.get("COMP_WORDS", ""))
    if len(typed) < 2 or typed[1] not in words:
        return None
    place = os.environ.get("COMP_CWORD", "")
    if how.startswith("fish"):  # which gives the unfinished word itself
        is_done = place != typed[1] or len(typed) > 2
    else:
        is_done = place.isdecimal() and int(place) > 1
        os.environ["COMP_CWORD"] = str(int(place) - 1) if is_done else place
    if not is_done:
        return None
    os.environ["COMP_WORDS"] = os.environ["COMP_WORDS"].lstrip().split(None, 1)[1]
    return typed[1]


def run_or_word(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What the first argument can be: a path, or a word that begins as typed."""
    words = [word for word in ("explain", "verify") if incomplete and word.startswith(incomplete)]
    found = [] if ctx.params.get("runs") else [CompletionItem(word) for word in words]
    return found or [CompletionItem(incomplete, type="file")]
