"""Routes of the edge hub: from a message to where it is queued (edge.md 6.2).

`[SELECT *] FROM <source> [WHERE <condition>] INTO $upstream | BrokeredEndpoint("…")`, keywords in
any case. A source is a path whose segments may be `*`; it matches every message whose own path
begins with it, segment by segment, so `/messages/modules/a` has all outputs of the module `a` and
nothing of `ab`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeAlias

from msgspec import Struct

from muster.errors import InvalidArgumentError
from muster.language import routes as conditions

if TYPE_CHECKING:
    from collections.abc import Iterable

LOWEST_PRIORITY: Final = 2_000_000_000
"""Of a route that names none (edge.md 6.1)."""

_ROUTE: Final = re.compile(
    r"""\s*(?:SELECT\s+\*\s+)?FROM\s+(?P<source>/\S*)\s+
    (?:WHERE\s+(?P<condition>.+?)\s+)?
    INTO\s+(?:(?P<upstream>\$upstream)|BrokeredEndpoint\(\s*(?P<quote>["'])(?P<path>[^"']*)(?P=quote)\s*\))
    \s*;?\s*""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
_ANY: Final = "*"
_TWIN_CHANGES: Final = ("twinchangenotifications",)


class Upstream(Struct, frozen=True):
    """The cloud."""


class Input(Struct, frozen=True, order=True):
    """An input of a module of this device."""

    module_id: str
    name: str


Sink: TypeAlias = Upstream | Input

UPSTREAM: Final = Upstream()


class Route(Struct, frozen=True, kw_only=True):
    """One route.

    Attributes:
        name: of it.
        source: lower-case segments, `*` for any one.
        condition: see `language.routes`.
        sink: where matching messages go.
        priority: smaller ones are served first.
        ttl_s: seconds a message waits at most; 0 for what the store says.
    """

    name: str
    source: tuple[str, ...]
    condition: conditions.Route
    sink: Sink
    priority: int = LOWEST_PRIORITY
    ttl_s: int = 0


class Delivery(Struct, frozen=True):
    """That a message is to be queued.

    Attributes:
        sink: for whom.
        priority: of the route that said so.
        ttl_s: likewise.
    """

    sink: Sink
    priority: int
    ttl_s: int


def parse(name: str, text: str, *, priority: int = LOWEST_PRIORITY, ttl_s: int = 0) -> Route:
    """Read a route.

    Args:
        name: of it.
        text: as the desired properties have it.
        priority: likewise.
        ttl_s: likewise.

    Raises:
        InvalidArgumentError: it is none; code `invalid-route`, and of its condition
            `invalid-query`.
    """
    found = _ROUTE.fullmatch(text)
    if found is None:
        raise InvalidArgumentError(
            "A route is 'FROM <source> [WHERE <condition>] INTO $upstream' or "
            "'… INTO BrokeredEndpoint(\"/modules/<module>/inputs/<input>\")'.",
            code="invalid-route",
        )
    source = _source(found["source"])
    twin_changes = source[:1] == _TWIN_CHANGES
    return Route(
        name=name,
        source=source,
        condition=conditions.parse(found["condition"] or "", edge=True, twin_changes=twin_changes),
        sink=UPSTREAM if found["upstream"] else _input(found["path"]),
        priority=priority,
        ttl_s=ttl_s,
    )


def telemetry_path(module_id: str, output: str) -> tuple[str, ...]:
    """Return the path of a message, which sources are compared with.

    Args:
        module_id: of the module that sent it; empty for a leaf device.
        output: it was sent to; empty for none.
    """
    if not module_id:
        return ("messages",)
    module = ("messages", "modules", module_id.lower())
    return (*module, "outputs", output.lower()) if output else module


def twin_change_path() -> tuple[str, ...]:
    """Return the path of a notification about a changed twin."""
    return _TWIN_CHANGES


def deliveries(
    routes: Iterable[Route], path: tuple[str, ...], message: conditions.Message
) -> list[Delivery]:
    """Return where a message goes: once to each sink, by the first in priority of its routes."""
    chosen: dict[Sink, Delivery] = {}
    for route in routes:
        known = chosen.get(route.sink)
        if known is not None and known.priority <= route.priority:
            continue
        if _begins(path, route.source) and route.condition.matches(message):
            chosen[route.sink] = Delivery(route.sink, route.priority, route.ttl_s)
    return list(chosen.values())


def _source(text: str) -> tuple[str, ...]:
    segments = [segment.lower() for segment in text.strip("/").split("/") if segment]
    while segments and segments[-1] == _ANY:
        # Whatever follows matches anyway, nothing at all included.
        segments.pop()
    return tuple(segments)


def _begins(path: tuple[str, ...], source: tuple[str, ...]) -> bool:
    return len(source) <= len(path) and all(
        wanted in (_ANY, found) for wanted, found in zip(source, path, strict=False)
    )


def _input(path: str) -> Input:
    parts = path.strip("/").split("/")
    if (
        len(parts) != 4
        or not all(parts)
        or (parts[0].lower(), parts[2].lower()) != ("modules", "inputs")
    ):
        raise InvalidArgumentError(
            f"'{path[:128]}' is no endpoint: it must be /modules/<module>/inputs/<input>.",
            code="invalid-route",
        )
    return Input(parts[1], parts[3])
