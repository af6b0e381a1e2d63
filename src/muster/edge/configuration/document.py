"""A configuration file as values that know their line."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from muster.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Place: TypeAlias = tuple[str | int, ...]
"""Keys and indexes that lead to a value."""


_LONG_KEY: Final = re.compile(
    r"^[ \t]*\[{0,2}(?:[ \t]*[A-Za-z0-9_\"'-]+[ \t]*\.){50}", re.MULTILINE
).search
_FURTHER_READING: Final = 1 << 20
"""Characters that are read again at most, to find where statements of several lines end."""


class ConfigurationError(InvalidArgumentError):
    """The file cannot be used. The message names file, line and key, and quotes no value."""

    default_code = "invalid-configuration"


class Document(msgspec.Struct, frozen=True):
    """A file that could be read.

    Attributes:
        source: its path.
        value: all of it.
        lines: line number, from 1, of each key and item.
        fold: whether keys are the same in any case.
    """

    source: Path
    value: dict[str, Any]
    lines: dict[Place, int]
    fold: bool = False

    def line(self, place: Place) -> int:
        """Return the line of a value, of what it is in where the file does not have it."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)


def read_toml(source: Path, text: str) -> Document:
    """Read TOML 1.0.

    Raises:
        ConfigurationError: it is none; the message says where.
    """
    try:
        # Parts of a key take the parser time by the square of their number.
        if _LONG_KEY(text) is not None:
            raise ConfigurationError(f"{source}: not usable: a key has more than 50 parts")
        value = tomllib.loads(text)
        lines = dict(_toml_lines(text))
    except (ValueError, RecursionError) as error:  # besides its own, of a very long number
        raise ConfigurationError(f"{source}: not TOML: {error}") from None
    return Document(source, value, lines)


def _toml_lines(text: str) -> Iterator[tuple[Place, int]]:
    """Find the first line of every statement; the parser itself says where one ends.

    After a statement of very many lines, which take time by the square of their number, lines of
    what follows are not found.
    """
    table: Place = ()
    tables: dict[Place, int] = {}
    statement, first = "", 1
    left = len(text) + _FURTHER_READING
    for number, line in enumerate(text.split("\n"), 1):
        if not statement:
            first = number
        statement += line + "\n"
        left -= len(statement)
        if left < 0:
            return
        try:
            value = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue  # it goes on, in the next line
        header = statement.lstrip().startswith("[")
        statement = ""
        places = list(_places(value))
        if header:
            table = _table(places[-1], tables, array=isinstance(_last(value), list))
            yield table, first
        else:
            yield from ((table + place, first) for place in places)


def _table(named: Place, tables: dict[Place, int], *, array: bool) -> Place:
    """Return where a header leads: into the last table of each array on the way."""
    place: Place = ()
    names = [part for part in named if isinstance(part, str)]
    for name in names:
        place += (name,)
        if array and name is names[-1]:
            tables[place] = tables.get(place, -1) + 1
        if place in tables:
            place += (tables[place],)
    return place


def _last(value: Any) -> Any:
    while isinstance(value, dict) and value:
        value = next(iter(value.values()))
    return value


def _places(value: Any, place: Place = ()) -> Iterator[Place]:
    if place:
        yield place
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _places(each, (*place, key))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _places(each, (*place, index))


def dotted(place: Place) -> str:
    """Return how people write a place: `agent.config.image`, `ipam.config[0]`."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
