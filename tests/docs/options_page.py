"""docs/cli.md and the tables of docs/configuration.md, from the commands and the configuration themselves."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator

import click

from finetune.cli.app import cli
from finetune.config.experiment import ExperimentConfig, Recipe
from finetune.config.presets import preset_names
from finetune.config.tune import Tune
from finetune.config.variant import Variant
from grader.cli import app as grader_cli
from grader.submission.resnet18 import GROUPS
from tests.docs.markdown import cell, table

GRADER = {
    "grader" if command is grader_cli.grade_runs else f"grader {command.name}": command
    for command in vars(grader_cli).values()
    if isinstance(command, click.Command)
}
"""The commands of the grader, by what a user types."""

TABLES = (
    ("Top level", ExperimentConfig),
    ("`[recipe]`", Recipe),
    ("`[variants.NAME]`", Variant),
    ("`[tune]`", Tune),
)
"""The dataclasses of the configuration, by their place in a TOML file."""

ELSEWHERE = {
    "ExperimentConfig": {"variants", "recipe", "tune", "preset", "processes"},
    "Variant": {"name"},
}
"""Fields that are tables of their own, part of a table's name, or that no preset should set."""


def commands() -> str:
    """Every command with its options."""
    parts = list(sections("finetune", cli))
    for name, command in GRADER.items():
        parts += sections(name, command)
    return "\n".join(parts)


def sections(name: str, command: click.Command) -> Iterator[str]:
    """A command, then its subcommands."""
    context = click.Context(command, info_name=name)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    text = inspect.cleandoc(command.help or "").replace("<", "&lt;")
    yield f"## {name}\n\n    {usage}\n\n{text}\n"
    options = [option for option in command.params if isinstance(option, click.Option)]
    records = filter(None, (option.get_help_record(context) for option in options))
    rows = [[cell(f"`{what}`"), cell(meaning).replace("[", "\\[")] for what, meaning in records]
    if rows:
        yield table(["option", "meaning"], rows)
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            yield from sections(f"{name} {child}", command.commands[child])


def keys() -> str:
    """Every key of a TOML file."""
    parts = [f"## Keys\n\nThe presets: {presets()}.\n"]
    for title, described in TABLES:
        hidden = ELSEWHERE.get(described.__name__, set())
        meanings = arguments(described)
        rows = [
            [f"`{field.name}`", default(field), cell(as_in_toml(meanings[field.name]))]
            for field in dataclasses.fields(described)
            if field.name not in hidden
        ]
        parts.append(f"### {title}\n\n{table(['key', 'default', 'meaning'], rows)}")
    return "\n".join(parts)


def presets() -> str:
    """The presets with their descriptions."""
    return "; ".join(f"`{name}` ({text})" for name, text in preset_names().items())


def default(field: dataclasses.Field[object]) -> str:
    """A default as TOML writes it; a key without one is required, a key whose default is None is left out."""
    value = field.default
    if value is dataclasses.MISSING:
        return "required"
    if value is None:
        return "left out"
    if isinstance(value, tuple):
        return f"`[{', '.join(f'{number:.3g}' for number in value)}]`"
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f"`{value!r}`".replace("'", '"')


def as_in_toml(meaning: str) -> str:
    """What a docstring says about an argument, as it applies to a key of a TOML file."""
    groups = ", ".join(f"`{group}`" for group in GROUPS)
    return re.sub(r"\bNone\b", "left out", meaning.replace("`GROUPS`", groups))


def arguments(described: type) -> dict[str, str]:
    """What a class's docstring says about each of its arguments."""
    text = inspect.cleandoc(described.__doc__ or "")
    (block,) = re.findall(r"^Args:\n(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    found = re.findall(r"^    (\w+): (.*?)(?=^    \w|\Z)", block, re.MULTILINE | re.DOTALL)
    return {name: meaning.strip() for name, meaning in found}
