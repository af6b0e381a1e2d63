"""A file of YAML as values that know their line.

Apart from `document`, so that a device with a `config.toml` does not load a YAML library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import yaml

from muster.edge.configuration.document import ConfigurationError, Document, dotted

if TYPE_CHECKING:
    from pathlib import Path

    from muster.edge.configuration.document import Place

_MAX_DEPTH: Final = 50


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
