"""What becomes of a message, by the routes and enrichments of its hub: pure rules.

A message goes to the endpoints of every route that it matches, once to each. A message of a device
that matches none goes to the built-in endpoint by the fallback route; other events that match none
go nowhere (hub-service.md 7).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

import msgspec
from msgspec import Struct

from muster.language import collections, routes
from muster.language.values import UNDEFINED
from muster.model.message import BUILT_IN, Delivery
from muster.model.routing import FALLBACK, Source, twin_path
from muster.wire.mqtt import property_bag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from muster.language.explain import Reason
    from muster.model.routing import Enrichment, Route

    Valued = Callable[[routes.Message], str]
    """Returns the value of an enrichment for a message."""

_JSON: Final = msgspec.json.Encoder()


class Matched(Struct, frozen=True):
    """What a route says of a message.

    Attributes:
        route: its name.
        matches: whether it takes the message.
        endpoint_names: where it sends it.
        reasons: the parts of the condition that decided; empty when the route is not asked.
        sentence: why it is not asked, or empty.
    """

    route: str
    matches: bool
    endpoint_names: tuple[str, ...]
    reasons: tuple[Reason, ...] = ()
    sentence: str = ""


@final
class _Rule:
    """A route, ready to be asked."""

    __slots__ = ("condition", "endpoints", "route")

    def __init__(self, route: Route, numbers: Mapping[str, int]) -> None:
        self.route = route
        self.condition = routes.parse(route.condition)
        self.endpoints = tuple(dict.fromkeys(numbers[name] for name in route.endpoint_names))


@final
class RoutingTable:
    """All routes and enrichments of a hub, ready to be asked.

    Args:
        hub_name: the value of `$iothubname`.
        routes: of the hub.
        enrichments: of the hub.
        numbers: of the endpoints, by name; the built-in one included.
        fallback: whether the fallback route is enabled.

    Attributes:
        plain: whether it does nothing that would not happen without it: messages of devices go to
            the built-in endpoint as they came, and nothing else goes anywhere.
        custom: whether anything can go to an endpoint that is not built in.
        needs_twin: sources whose messages need the twin of their sender.
        sources: what is taken from at all, by a route or by the fallback.
    """

    __slots__ = (
        "_enrichments",
        "_fallback",
        "_routes",
        "_rules",
        "custom",
        "needs_twin",
        "plain",
        "sources",
    )

    def __init__(
        self,
        hub_name: str,
        routes: Iterable[Route],
        enrichments: Iterable[Enrichment],
        numbers: Mapping[str, int],
        *,
        fallback: bool,
    ) -> None:
        self._routes = tuple(routes)
        self._fallback = fallback
        self._rules: dict[Source, tuple[_Rule, ...]] = {
            source: tuple(
                _Rule(route, numbers)
                for route in self._routes
                if route.is_enabled and route.source == source
            )
            for source in Source
        }
        self._enrichments: dict[int, list[tuple[str, Valued]]] = {}
        twin_endpoints = set()
        for enrichment in enrichments:
            valued = _valued(enrichment.value, hub_name)
            for number in {numbers[name] for name in enrichment.endpoint_names}:
                self._enrichments.setdefault(number, []).append((enrichment.key, valued))
                if twin_path(enrichment.value) is not None:
                    twin_endpoints.add(number)
        self.sources = frozenset(
            source
            for source, rules in self._rules.items()
            if rules or (source is Source.MESSAGES and fallback)
        )
        self.plain = (
            fallback and not any(self._rules.values()) and BUILT_IN not in self._enrichments
        )
        self.custom = any(
            number != BUILT_IN
            for rules in self._rules.values()
            for rule in rules
            for number in rule.endpoints
        )
        self.needs_twin = frozenset(
            source
            for source, rules in self._rules.items()
            if any(rule.condition.needs_twin for rule in rules)
            or twin_endpoints & self._reachable(source)
        )

    def decide(self, source: Source, message: routes.Message) -> tuple[Delivery, ...]:
        """Return where a message goes; nowhere is empty."""
        endpoints = {
            number: None
            for rule in self._rules[source]
            if rule.condition.matches(message)
            for number in rule.endpoints
        }
        if not endpoints:
            if source is not Source.MESSAGES or not self._fallback:
                return ()
            endpoints = {BUILT_IN: None}
        if not self._enrichments:
            return tuple(map(Delivery, endpoints))
        return tuple(Delivery(number, self._added(number, message)) for number in endpoints)

    def explain(self, source: Source, message: routes.Message) -> list[Matched]:
        """Return what each route says of a message, the fallback route last."""
        told: list[Matched] = []
        for route in self._routes:
            if route.source != source:
                sentence = f"It takes {route.source}."
            elif not route.is_enabled:
                sentence = "It is disabled."
            else:
                outcome, reasons = routes.parse(route.condition).why(message)
                told.append(Matched(route.name, outcome, route.endpoint_names, tuple(reasons)))
                continue
            told.append(Matched(route.name, False, route.endpoint_names, sentence=sentence))
        taken = any(each.matches for each in told)
        if source is not Source.MESSAGES:
            sentence = "It takes DeviceMessages."
        elif not self._fallback:
            sentence = "It is disabled."
        elif taken:
            sentence = "Another route takes the message."
        else:
            sentence = "No other route takes the message."
        falls = source is Source.MESSAGES and self._fallback and not taken
        told.append(Matched(FALLBACK, falls, ("events",), sentence=sentence))
        return told

    def _reachable(self, source: Source) -> set[int]:
        """Return the endpoints messages of a source can go to."""
        found = {number for rule in self._rules[source] for number in rule.endpoints}
        if source is Source.MESSAGES and self._fallback:
            found.add(BUILT_IN)
        return found

    def _added(self, number: int, message: routes.Message) -> str:
        return property_bag.encode(
            (key, valued(message)) for key, valued in self._enrichments.get(number, ())
        )


def _valued(text: str, hub_name: str) -> Valued:
    if text.lower() == "$iothubname":
        return lambda _: hub_name
    names = twin_path(text)
    if names is None:
        return lambda _: text

    def of_twin(message: routes.Message) -> str:
        value: Any = UNDEFINED
        if message.twin is not None:
            value = collections.find(message.twin, names)
        if value is UNDEFINED:
            # The path itself, so that whoever reads it sees what is missing.
            return text
        return value if isinstance(value, str) else _JSON.encode(value).decode()

    return of_twin
