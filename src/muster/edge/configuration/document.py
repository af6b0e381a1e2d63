"""A configuration file as values that know their line."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec
import yaml

from muster.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Place: TypeAlias = tuple[str | int, ...]
"""Keys and indexes that lead to a value."""
_MAX_DEPTH: Final = 50


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
        value = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{source}: not TOML: {error}") from None
    return Document(source, value, dict(_toml_lines(text)))


def _toml_lines(text: str) -> Iterator[tuple[Place, int]]:
    """Find the first line of every statement; the parser itself says where one ends."""
    table: Place = ()
    tables: dict[Place, int] = {}
    statement, first = "", 1
    for number, line in enumerate(text.splitlines(), 1):
        if not statement:
            first = number
        statement += line + "\n"
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


def read_yaml(source: Path, text: str) -> Document:
    """Read YAML of plain values: no aliases, no tags, no key twice.

    Keys have no case (edge.md 4.1).

    Raises:
        ConfigurationError: it is none; the message says where.
    """
    try:
        node = yaml.compose(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = error.problem or error.context
        raise ConfigurationError(f"{source}:{line}: not YAML: {problem}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigurationError(
            f"{source}: not YAML: {str(error).partition(chr(10))[0]}"
        ) from None
    lines: dict[Place, int] = {}
    value = {} if node is None else _Plain(source, lines).of(node, ()) or {}
    if not isinstance(value, dict):
        raise ConfigurationError(f"{source}:1: must be keys with values")
    return Document(source, value, lines, fold=True)


class _Plain:
    """Turns nodes into values and notes their lines."""

    def __init__(self, source: Path, lines: dict[Place, int]) -> None:
        self._source = source
        self._lines = lines
        self._seen: set[int] = set()

    def of(self, node: yaml.Node, place: Place) -> Any:
        """Return the value of a node."""
        line = node.start_mark.line + 1
        self._lines.setdefault(place, line)
        # An alias is the same node again; a few of them could stand for gigabytes.
        if id(node) in self._seen or len(place) > _MAX_DEPTH:
            raise self._error(line, place, "no aliases, and no more than 50 levels")
        self._seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self.of(each, (*place, index)) for index, each in enumerate(node.value)]
        try:
            return yaml.constructor.SafeConstructor().construct_object(node)
        except (yaml.YAMLError, ValueError, OverflowError):
            raise self._error(line, place, "not a plain value") from None

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._error(line, place, "a key must be text")
            key = str(key_node.value)
            if key in found:
                raise self._error(line, (*place, key), "given twice")
            self._lines[(*place, key)] = line
            found[key] = self.of(value_node, (*place, key))
        return found

    def _error(self, line: int, place: Place, problem: str) -> ConfigurationError:
        where = f"{dotted(place)}: " if place else ""
        return ConfigurationError(f"{self._source}:{line}: {where}{problem}")


def dotted(place: Place) -> str:
    """Return how people write a place: `agent.config.image`, `ipam.config[0]`."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
