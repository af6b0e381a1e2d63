"""How a command fails: what happened, then what caused it, a line each (edge.md 7)."""

from __future__ import annotations

from typing import IO, Any

import click

from muster.terminal.output import printable


class CommandError(click.ClickException):
    """The command failed.

    Args:
        message: what could not be done.
        causes: why, and why that, each one sentence.

    Attributes:
        lines: message and causes.
    """

    exit_code = 1

    def __init__(self, message: str, *causes: str) -> None:
        self.lines = (message, *causes)
        lines = [message, *(f"\tcaused by: {cause}" for cause in causes)]
        super().__init__(printable("\n".join(lines), keep="\n\t"))

    def show(self, file: IO[Any] | None = None) -> None:
        """Write it to stderr, an empty line behind."""
        click.echo(self.format_message() + "\n", file=file, err=file is None)
