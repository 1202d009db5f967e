"""A choice among names that suggests the nearest one to what was mistyped; finetune's options use it, too."""

from typing import Any

import click

from grader.errors import did_you_mean


class Choice(click.Choice[Any]):
    """As click's, with a suggestion."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """The message of an invalid value: the nearest choice, or else all of them."""
        near = did_you_mean(str(value), [str(choice) for choice in self.choices])
        return (
            f"There is no {str(value)!r}.{near}" if near else super().get_invalid_choice_message(value, ctx)
        )
