"""Routing conditions: the same language over a message instead of a twin (hub-service.md 7).

A bare name is an application property, `$name` a system property, `$body.…` a part of the body
and `$twin.…` of the twin of whoever sent it. Names of properties are found in any case, and a
hyphen in a name is part of it: `mqtt-retain = 'true'`; to subtract takes spaces.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, final

import msgspec

from muster.language import collections, explain
from muster.language.evaluate import predicate
from muster.language.lexer import tokens
from muster.language.parser import condition_of
from muster.language.tree import TRUE, Path, paths
from muster.language.values import UNDEFINED, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from muster.language.explain import Reason
    from muster.language.tree import Expression

_BODY: Final = "$body"
_TWIN: Final = "$twin"
_JSON: Final = re.compile(r"\s*application/json\s*(;.*)?", re.IGNORECASE)
_CODECS: Final = {"utf-8": "utf-8", "utf-16": "utf-16", "utf-32": "utf-32"}
_UNREAD: Final = object()
_decode: Final = msgspec.json.Decoder().decode


@final
class Message:
    """What conditions of routes are asked of.

    Args:
        properties: application properties; `None` is null.
        system: system properties by their names in conditions without the `$`: `contentType`,
            `connectionDeviceId`, `dt-dataschema`, …; only those the message has.
        body: as it came.
        twin: the service's view of the sender's twin, for `$twin`; `None` when there is none.
    """

    __slots__ = ("_body", "_json", "properties", "system", "twin")

    def __init__(
        self,
        properties: Mapping[str, str | None],
        system: Mapping[str, str],
        body: bytes,
        twin: Mapping[str, Any] | None = None,
    ) -> None:
        self.properties = {name.lower(): value for name, value in properties.items()}
        self.system = {name.lower(): value for name, value in system.items()}
        self.twin = twin
        self._body = body
        self._json: Any = _UNREAD

    @property
    def json(self) -> Value:
        """The body, when it says it is JSON in a Unicode encoding and it is."""
        if self._json is _UNREAD:
            self._json = self._read()
        return self._json

    def _read(self) -> Value:
        codec = _CODECS.get(self.system.get("contentencoding", "").strip().lower())
        if codec is None or not _JSON.fullmatch(self.system.get("contenttype", "")):
            return UNDEFINED
        try:
            return _decode(self._body if codec == "utf-8" else self._body.decode(codec))
        except (msgspec.DecodeError, ValueError, RecursionError):
            return UNDEFINED


@final
class Route:
    """The condition of a route.

    Attributes:
        matches: tells whether it is exactly true of a message.
        needs_twin: whether the message must have its sender's twin.
        needs_body: whether it looks into the body.
    """

    __slots__ = ("_expression", "matches", "needs_body", "needs_twin")

    def __init__(self, expression: Expression) -> None:
        """Use `parse`."""
        roots = {path.names[0] for path in paths(expression)}
        self.needs_twin = _TWIN in roots
        self.needs_body = _BODY in roots
        self.matches: Callable[[Message], bool] = predicate(expression, _bind)
        self._expression = expression

    def why(self, message: Message) -> tuple[bool, list[Reason]]:
        """Tell whether it is true of a message, and the parts because of which."""
        return explain.why(self._expression, message, _bind)


def parse(text: str, *, edge: bool = False, twin_changes: bool = False) -> Route:
    """Read the condition of a route; an empty one is true.

    Args:
        text: of it.
        edge: whether it is one of an edge hub, whose grammar has `??` (edge.md 6.2).
        twin_changes: whether all it is asked of is changes of twins, so that it may ask
            `twin_change_includes(path)`.

    Raises:
        InvalidArgumentError: it is not one; code `invalid-query`.
    """
    return Route(_expression(text, edge=edge, twin_changes=twin_changes))


def _expression(text: str, *, edge: bool, twin_changes: bool) -> Expression:
    if not text.strip():
        return TRUE
    # In the grammar of the official routing engine, which is published with its edge hub, a name
    # is any run of characters but a few, and the longest token counts: `mqtt-retain` is a name.
    change = Path((_BODY,)) if twin_changes else None
    return condition_of(tokens(text, hyphens=True), _path, coalesce=edge, change=change)


def _path(names: tuple[str | int, ...]) -> Path:
    root = str(names[0]).lower()
    if root == _BODY:
        return Path((_BODY, *names[1:]))
    if root == _TWIN:
        inside = collections.DEVICES.path(names[1:]).names if len(names) > 1 else ()
        return Path((_TWIN, *inside))
    # A property's name is one word, dots in it included.
    return Path((".".join(map(str, names)).lower(),))


def _bind(path: Path) -> Callable[[Message], Value]:
    root, rest = str(path.names[0]), path.names[1:]
    if root == _BODY:
        return lambda message: collections.find(message.json, rest)
    if root == _TWIN:
        return lambda message: (
            UNDEFINED if message.twin is None else collections.find(message.twin, rest)
        )
    if root.startswith("$"):
        name = root[1:]
        # What is no system property may be one of the sender's that begins with a dollar sign.
        return lambda message: message.system.get(name, message.properties.get(root, UNDEFINED))
    return lambda message: message.properties.get(root, UNDEFINED)
