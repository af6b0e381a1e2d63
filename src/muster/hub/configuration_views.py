"""A configuration as the service API shows it, its metrics counted.

System metrics are counted from the table that is written together with the twins, so they say
exactly what has been applied; the texts shown beside them find the same twins through the query
endpoint. An operator's own metrics are queries over the whole hub: they are counted at most every
`CUSTOM_EVERY_S`, and while one is being counted the last figure is shown.
Sources: hub-service.md 1.5, 6.3; edge.md 9.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast, final

import msgspec
import structlog
from msgspec import Struct

from muster.errors import MusterError
from muster.hub.configurations import etag
from muster.language.conditions import Condition
from muster.language.parser import parse_query
from muster.model.configuration import Content, Kind
from muster.model.identity import EDGE_AGENT, wire_time
from muster.store.queries import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muster.clock import Clock
    from muster.hub.queries import Queries
    from muster.model.configuration import Configuration
    from muster.store.engine import Engine

CUSTOM_EVERY_S: Final = 30.0

TARGETED: Final = "targetedCount"
APPLIED: Final = "appliedCount"
SUCCESSFUL: Final = "reportedSuccessfulCount"
FAILED: Final = "reportedFailedCount"

_SQL: Final = load("configurations")
_encode: Final = msgspec.json.Encoder().encode
_log = structlog.get_logger(__name__)


class ShownMetrics(Struct, rename="camel"):
    """Metrics: what is counted and how many there are."""

    results: dict[str, int]
    queries: dict[str, str]


class ShownConfiguration(Struct, rename="camel", kw_only=True):
    """A configuration as the service API shows it."""

    id: str
    schema_version: str
    labels: dict[str, str] | None
    content: Content
    content_type: str = "assignment"
    target_condition: str
    created_time_utc: str
    last_updated_time_utc: str
    priority: int
    system_metrics: ShownMetrics
    metrics: ShownMetrics
    etag: str


@final
class ConfigurationViews:
    """Shows configurations.

    Args:
        engine: where the counts come from.
        queries: counts an operator's own metrics.
        clock: steady time, for their age.
    """

    def __init__(self, engine: Engine, queries: Queries, clock: Clock) -> None:
        self._engine = engine
        self._queries = queries
        self._clock = clock
        self._custom: dict[tuple[int, str, int], tuple[float, dict[str, int]]] = {}

    async def show(self, hub: int, configuration: Configuration) -> ShownConfiguration:
        """Return the service view of a configuration."""
        (shown,) = await self.show_all(hub, [configuration])
        return shown

    async def show_all(
        self, hub: int, configurations: Sequence[Configuration]
    ) -> list[ShownConfiguration]:
        """Return the service views of configurations; all are counted together."""
        results = await self._system_results(hub, configurations)
        return [
            ShownConfiguration(
                id=each.id,
                schema_version=each.schema_version,
                labels=each.labels,
                content=each.content,
                target_condition=each.target_condition,
                created_time_utc=wire_time(each.created_at),
                last_updated_time_utc=wire_time(each.updated_at),
                priority=each.priority,
                system_metrics=ShownMetrics(results[each.id], system_queries(each)),
                metrics=ShownMetrics(await self._custom_results(hub, each), each.metrics),
                etag=etag(each),
            )
            for each in configurations
        ]

    async def _system_results(
        self, hub: int, configurations: Sequence[Configuration]
    ) -> dict[str, dict[str, int]]:
        results: dict[str, dict[str, int]] = {each.id: {} for each in configurations}
        edge = [each.id for each in configurations if each.kind is Kind.EDGE]
        for query, ids, names in (
            (_SQL["counts"], list(results), (TARGETED, APPLIED)),
            (_SQL["reported_counts"], edge, (SUCCESSFUL, FAILED)),
        ):
            params: dict[str, str | int] = {"hub": hub, "ids": _encode(ids).decode()}
            for row in await self._engine.read(query, params) if ids else ():
                name, one, other = cast("tuple[str, int, int]", row)
                results[name] |= dict(zip(names, (one, other), strict=True))
        return results

    async def _custom_results(self, hub: int, configuration: Configuration) -> dict[str, int]:
        if not configuration.metrics:
            return {}
        key = (hub, configuration.id, configuration.counter)
        now = self._clock.monotonic()
        counted_at, results = self._custom.get(key, (float("-inf"), {}))
        if now - counted_at < CUSTOM_EVERY_S:
            return results
        self._custom = {each: kept for each, kept in self._custom.items() if each[:2] != key[:2]}
        # Others who ask meanwhile see the figures of before.
        self._custom[key] = (now, results)
        found: dict[str, int] = {}
        for name, text in configuration.metrics.items():
            try:
                query = parse_query(text)
                condition = Condition(query.collection, query.condition)
                found[name] = await self._queries.count(hub, condition)
            except MusterError as error:
                _log.warning(
                    "metric cannot be counted",
                    configuration=configuration.id,
                    metric=name,
                    reason=error.message,
                )
        self._custom[key] = (now, found)
        return found


def system_queries(configuration: Configuration) -> dict[str, str]:
    """Return the texts of the system metrics; each runs as it is (hub-service.md 6.3)."""
    condition = configuration.target_condition
    chosen = "" if condition == "*" else condition
    status = f"configurations.[[{configuration.id}]].status = 'Applied'"
    if configuration.kind is Kind.EDGE:
        narrowed = f" and ({chosen})" if chosen else ""
        applied = (
            f"select deviceId from devices.modules where moduleId = '{EDGE_AGENT}' and {status}"
        )
        reported = (
            f"{applied} and properties.desired.$version = properties.reported.lastDesiredVersion "
            "and properties.reported.lastDesiredStatus.code"
        )
        return {
            TARGETED: (
                f"select deviceId from devices where capabilities.iotEdge = true{narrowed}"
                if condition
                else ""
            ),
            APPLIED: applied,
            SUCCESSFUL: f"{reported} = 200",
            FAILED: f"{reported} != 200",
        }
    if configuration.kind is Kind.MODULE:
        return {
            TARGETED: f"select deviceId, moduleId {condition}" if condition else "",
            APPLIED: f"select deviceId, moduleId from devices.modules where {status}",
        }
    narrowed = f" where {chosen}" if chosen else ""
    return {
        TARGETED: f"select deviceId from devices{narrowed}" if condition else "",
        APPLIED: f"select deviceId from devices where {status}",
    }
