"""What commands print: data to stdout as tables or JSON, remarks to stderr.

Plain text when stdout is no terminal or NO_COLOR is set, so that scripts and screen readers get
one record a line; `rich` draws tables otherwise. Text that came from a device is stripped of
control characters: a device must not be able to steer an operator's terminal.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
import unicodedata
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NOTHING: Final = "-"
"""Shown in tables for what is not there."""

_FRACTION: Final = re.compile(r"\.\d+(?=Z$)")
_LEAST_ROOM: Final = 20
_QUOTED: Final = re.compile(r"`[^`]*`")
_SECRET_NAMES: Final = frozenset({"primaryKey", "secondaryKey", "connectionString"})
# Control characters, halves of surrogate pairs, and what reverses the order of a line.
_HIGH_UNSAFE: Final = r"\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_UNSAFE: Final = re.compile(rf"[\x00-\x1f{_HIGH_UNSAFE}]")
_UNSAFE_IN_JSON: Final = re.compile(rf"[{_HIGH_UNSAFE}]")
"""json.dumps escapes the others itself."""


def make_printable() -> None:
    """Let stdout and stderr escape what their encoding cannot carry, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def give_up_output(error: OSError) -> None:
    """Say that nothing more can be written, and keep the interpreter from trying."""
    click.echo(f"Error: {error.strerror or error}", err=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def printable(text: str, keep: str = "") -> str:
    """Return the text with control characters written as escapes.

    Args:
        text: of whatever origin.
        keep: control characters to let through.
    """
    return _UNSAFE.sub(lambda found: found[0] if found[0] in keep else _escape(found), text)


def _escape(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """Write JSON that is safe on a terminal; on one line with `indent=None`."""
    separators = (",", ":") if indent is None else (",", ": ")
    return printable_json(
        json.dumps(value, indent=indent, ensure_ascii=False, separators=separators)
    )


def printable_json(text: str) -> str:
    """Return JSON text with what could steer a terminal written as escapes."""
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def show_json(value: Any) -> None:
    """Print JSON."""
    click.echo(to_json(value))


def without_secrets(value: Any) -> Any:
    """Return JSON with every key and connection string replaced by null."""
    if isinstance(value, dict):
        return {
            name: None if name in _SECRET_NAMES else without_secrets(each)
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [without_secrets(each) for each in value]
    return value


def remark(text: str) -> None:
    """Tell something beside the data, on stderr."""
    click.echo(printable(text, keep="\n"), err=True)


def warn(text: str) -> None:
    """Warn, on stderr."""
    remark(f"Warning: {text}")


def decorated() -> bool:
    """Tell whether stdout is a terminal that wants more than plain text."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def cell(value: Any) -> str:
    """Return the text of one value: JSON for documents, yes and no for booleans."""
    if value is None or value in ("", [], {}):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return printable(", ".join(value))
    if isinstance(value, dict | list):
        return printable(to_json(value, indent=None))
    return printable(str(value))


def to_the_second(time: str | None) -> str | None:
    """Return a time of the service as tables show it; records and JSON have the whole of it."""
    return None if time is None else _FRACTION.sub("", time)


def show_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
    """Print a table.

    Args:
        columns: headings.
        rows: a value for each column; see `cell`.
        empty: said on stderr when there are no rows.
    """
    texts = [[cell(value) for value in row] for row in rows]
    if not texts:
        remark(empty)
        return
    table = [list(columns), *texts]
    widths = [max(map(_width, column)) for column in zip(*table, strict=True)]
    prose = [any(" " in text for text in column) for column in zip(*texts, strict=True)]
    least = sum(
        min(width, _LEAST_ROOM) if folds else width
        for width, folds in zip(widths, prose, strict=True)
    )
    # What a reader copies, an ID, must stay in one piece: only sentences are folded, and where
    # that is not enough the terminal breaks the lines.
    if decorated() and least + 2 * len(columns) <= shutil.get_terminal_size().columns:
        _draw(columns, texts, prose)
        return
    for row in table:
        padded = (
            text + " " * (width - _width(text)) for text, width in zip(row, widths, strict=True)
        )
        click.echo("  ".join(padded).rstrip())


def show_record(fields: Iterable[tuple[str, Any]]) -> None:
    """Print one thing, a field a line; fields that are `None` or empty are left out."""
    shown = [(label, text) for label, value in fields if (text := cell(value)) != NOTHING]
    width = max((len(label) for label, _ in shown), default=0) + 2
    for label, text in shown:
        head = f"{label:{width}}"
        if decorated():
            click.echo(click.style(head, bold=True) + _hanging(text, width))
        else:
            click.echo(head + text)


def _hanging(text: str, indent: int) -> str:
    """Wrap sentences to the terminal, below where they begin."""
    room = max(shutil.get_terminal_size().columns - indent, _LEAST_ROOM)
    return f"\n{' ' * indent}".join(wrapped(text, room))


def wrapped(text: str, width: int) -> list[str]:
    """Break sentences into lines; keys, JSON and what stands between backticks stay whole."""
    kept = _QUOTED.sub(lambda found: found[0].replace(" ", "\0"), text)
    lines = textwrap.wrap(kept, width, break_long_words=False, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in lines]


def _draw(columns: Sequence[str], rows: Iterable[Sequence[str]], prose: Sequence[bool]) -> None:
    from rich import box  # noqa: PLC0415 - only on a terminal, and slow to import
    from rich.console import Console  # noqa: PLC0415 - slow to import
    from rich.table import Table  # noqa: PLC0415 - slow to import
    from rich.text import Text  # noqa: PLC0415 - slow to import

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column, folds in zip(columns, prose, strict=True):
        table.add_column(column, overflow="fold", no_wrap=not folds)
    for row in rows:
        table.add_row(*(Text(text) for text in row))
    Console(highlight=False).print(table)


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(each) else 1 + (unicodedata.east_asian_width(each) in "WF")
        for each in text
    )
