"""A click command with options in groups, examples, suggestions, and options from the environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from finetune.errors import ConfigError
from grader.choice import Choice
from grader.errors import nearest

Config = TypeVar("Config")

PREFIX = "FINETUNE"
"""Of the environment variables that set options: FINETUNE_TRAIN_EPOCHS is `finetune train --epochs`."""

GROUPS = ("Data", "Recipe", "Compute", "Output")
"""Headings of a long help, in order."""

OTHERS = "Other options"
LONG = 10
"""Options from which a help has headings."""


class Option(click.Option):
    """An option that knows its heading in a long help.

    Args:
        group: one of `GROUPS`.
        attributes: click's own.
    """

    def __init__(self, *arguments: Any, group: str = OTHERS, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.group = group


class Command(click.Command):
    """A command of finetune.

    Args:
        examples: command lines for the help.
        attributes: click's own.
    """

    def __init__(self, *arguments: Any, examples: Sequence[str] = (), **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.examples = examples
        for parameter in self.params:
            if isinstance(parameter.type, click.Choice):
                parameter.type = Choice(parameter.type.choices)

    def get_help_option_names(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click calls it so
        """The same in every context: click remembers a command's help option from its first use."""
        return ["-h", "--help"]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does; the message of a bad value from the environment names its variable.

        Raises:
            UsageError: an option or a variable breaks its rule, or is none of this command's.
        """
        self._require_known_variables(ctx)
        for option in self._settable():
            # Click names a variable after the function's argument: FORM for --format.
            option.envvar = option.envvar or variable(ctx, option.name)
        try:
            return super().parse_args(ctx, args)
        except click.BadParameter as error:
            name = error.param.name if error.param else None
            if name and ctx.get_parameter_source(name) is ParameterSource.ENVIRONMENT:
                error.param_hint = f"'{variable(ctx, name)}'"
            raise

    def _require_known_variables(self, ctx: click.Context) -> None:
        """Refuse environment variables that look like options of this command but are none."""
        if ctx.auto_envvar_prefix is None or ctx.resilient_parsing:
            return
        beginning = f"{ctx.auto_envvar_prefix}_"
        known = [variable(ctx, option.name).removeprefix(beginning) for option in self._settable()]
        for name in sorted(os.environ):
            rest = name.removeprefix(beginning)
            if name.startswith(beginning) and os.environ[name] and rest not in known:
                near = nearest(rest, known)
                raise click.UsageError(
                    f"The environment variable {name} must be named after an option of {ctx.command_path}, "
                    "but there is none of that name; "
                    + (f"did you mean {beginning}{near}?" if near else "unset it."),
                    ctx,
                )

    def _settable(self) -> list[click.Option]:
        """The options of its own, which are all but --help."""
        return [parameter for parameter in self.params if isinstance(parameter, click.Option)]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, a long list under headings, and how the environment sets them."""
        options = [option for option in self.get_params(ctx) if isinstance(option, click.Option)]
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in GROUPS}
        for option in options:
            title = getattr(option, "group", OTHERS) if len(options) >= LONG else "Options"
            if (row := option.get_help_record(ctx)) is not None:
                sections.setdefault(title, []).append(row)
        for title, rows in sections.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)
        first = next((option.name for option in self._settable()), None)
        if first is not None and ctx.auto_envvar_prefix is not None:
            with formatter.section("Environment"):
                formatter.write_text(
                    f"{variable(ctx, first)} sets {long_form(ctx, first)}, and so on for every option; the "
                    "command line comes first."
                )

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")
        super().format_epilog(ctx, formatter)


def long_form(ctx: click.Context, name: str | None) -> str:
    """An option as it is written on the command line, such as --batch-size."""
    return next(max(p.opts, key=len) for p in ctx.command.params if p.name == name)


def variable(ctx: click.Context, name: str | None) -> str:
    """The environment variable that sets an option of a command."""
    word = long_form(ctx, name).removeprefix("--")
    return f"{ctx.auto_envvar_prefix}_{word.replace('-', '_').upper()}"


def shown(ctx: click.Context, name: str) -> str:
    """An option in a message: the environment variable if its value comes from there."""
    is_variable = ctx.get_parameter_source(name) is ParameterSource.ENVIRONMENT
    return variable(ctx, name) if is_variable else long_form(ctx, name)


def configured_by(given: Mapping[str, Any], configure: Callable[[Mapping[str, Any]], Config]) -> Config:
    """What options configure; the message of a mistake names the environment variable that made it.

    Args:
        given: values by name of the option.
        configure: makes something of them.

    Raises:
        ConfigError: what `configure` raised.
    """
    try:
        return configure(given)
    except ConfigError as error:
        context = click.get_current_context()
        for name in given:
            if context.get_parameter_source(name) is not ParameterSource.ENVIRONMENT:
                continue
            try:
                configure({key: value for key, value in given.items() if key != name})
            except ConfigError:
                continue  # it is not this one, or not alone
            raise ConfigError(f"{error} The value comes from {variable(context, name)}.") from error
        raise
