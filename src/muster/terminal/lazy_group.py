"""A tree of commands that are imported when they are asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, final

import click

if TYPE_CHECKING:
    from collections.abc import Mapping


class Entry(NamedTuple):
    """Where a command is, and what it is for."""

    module: str
    attribute: str
    summary: str


@final
class LazyGroup(click.Group):
    """A group of such commands.

    Args:
        package: that their modules are in.
        entries: every command, in the order of the help.
        options: see `click.Group`.
    """

    def __init__(self, package: str, entries: Mapping[str, Entry], **options: Any) -> None:
        super().__init__(**options)
        self._package = package
        self._entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(self._entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        entry = self._entries.get(cmd_name)
        if entry is None:
            return None
        found: Any = getattr(import_module(f"{self._package}.{entry.module}"), entry.attribute)
        if not isinstance(found, click.Command):
            raise TypeError(f"{self._package}.{entry.module}.{entry.attribute} is not a command")
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in self._entries.items()])
