"""Places in the stream of events, and sources, as options take them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from muster.cli.quantities import read_moment
from muster.model.message import SOURCES

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

POSITIONS: Final = "earliest|latest|SEQ|TIME"

_WORDS: Final = ("earliest", "latest")
_SEQUENCE: Final = re.compile(r"[0-9]{1,18}")


def read_position(
    _context: click.Context, _parameter: click.Parameter, text: str | None
) -> str | None:
    """Return a position as the service takes it; a time is UTC unless it says otherwise."""
    if text is None:
        return None
    if text.lower() in _WORDS:
        return text.lower()
    if _SEQUENCE.fullmatch(text):
        return text
    moment = read_moment(text)
    if moment is None:
        raise click.BadParameter(
            f"{text!r} is neither earliest, latest, a sequence number, nor a time like "
            "2026-01-31T12:00:00Z."
        )
    return moment.isoformat()


def source_option(command: F) -> F:
    """Add `--source`."""
    return click.option(
        "--source",
        type=click.Choice(SOURCES, case_sensitive=False),
        help="Only events of this source.",
    )(command)


def device_option(command: F) -> F:
    """Add `--device-id`."""
    return click.option(
        "--device-id", metavar="ID", help="Only events of this device and its modules."
    )(command)
