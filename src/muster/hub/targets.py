"""Which configurations target which devices: the target conditions, prepared as SQL.

One statement answers for a batch of devices what each of all conditions says of each of them, so
that the cost of a change does not grow with a query for every configuration.
Sources: hub-service.md 5.2, 6.5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast, final

import msgspec
from msgspec import Struct

from muster.errors import InvalidArgumentError
from muster.hub.query_schema import DEVICES, JOINS, MODULES, VOLATILE
from muster.language import collections
from muster.language.conditions import parse_target
from muster.language.parser import parse_query
from muster.language.sql import compile_condition
from muster.language.tree import paths
from muster.model.configuration import MAX_METRICS, Kind
from muster.model.identity import EDGE_AGENT
from muster.store.engine import Query
from muster.store.queries import load

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from muster.hub.connections import Connections
    from muster.language.conditions import Condition
    from muster.language.sql import Compiled
    from muster.model.configuration import Configuration
    from muster.store.engine import Engine

Position: TypeAlias = tuple[str, str]
"""Device and module ID of the last one that was found; `("", "")` for the beginning."""

_SQL: Final = load("configurations")
_COLUMNS: Final = 400
"""Conditions in one statement; SQLite allows for 2,000 columns."""
_PARAMETERS: Final = 5_000
"""Values in them. SQLite allows for 32,766, but the time to read a statement grows with the square
of their number."""

_BEGINNING: Final[Position] = ("", "")
_encode: Final = msgspec.json.Encoder().encode


class _Prepared(Struct):
    """A target condition as SQL.

    Attributes:
        kind: whose twins the configuration sets.
        parsed: the condition.
        condition: the same as SQL, of rows of the kind's collection.
        reported: whether it looks at reported properties.
        presence: whether it looks at who is connected.
        volatile: whether it looks at anything that the database is told of late.
        lively: whether it looks at when somebody was last heard of.
    """

    kind: Kind
    parsed: Condition
    condition: Compiled
    reported: bool
    presence: bool
    volatile: bool
    lively: bool


class _Statement(Struct):
    """Some conditions of one kind of rows: a column for each."""

    query: Query
    params: dict[str, Any]
    names: list[str]


@final
class Targets:
    """The target conditions of all configurations.

    Args:
        engine: where devices and twins are.
        connections: who is connected.
    """

    def __init__(self, engine: Engine, connections: Connections) -> None:
        self._engine = engine
        self._connections = connections
        self._prepared: dict[int, dict[str, _Prepared]] = {}
        self._statements: dict[int, list[_Statement]] = {}
        self._kinds: dict[int, frozenset[Kind]] = {}
        # The hubs of which a condition looks there.
        self._reported: set[int] = set()
        self._presence: set[int] = set()
        self._volatile: set[int] = set()
        self._numbers = 0

    # -- configurations ------------------------------------------------------------------------

    async def check(self, configuration: Configuration) -> None:
        """Check target condition and metrics.

        Raises:
            InvalidArgumentError: codes `invalid-target-condition`,
                `invalid-configuration-metric`.
        """
        prepared = _prepare(configuration, 0)
        if prepared is not None:
            try:
                # One that the database refuses would hold up all others.
                await self._newcomers(prepared, _place(0, "", _BEGINNING, 0))
            except InvalidArgumentError as refused:
                raise InvalidArgumentError(
                    f"Target condition: {refused.message}", code="invalid-target-condition"
                ) from None
        if len(configuration.metrics) > MAX_METRICS:
            raise InvalidArgumentError(
                f"A configuration has at most {MAX_METRICS} metrics.",
                code="invalid-configuration-metric",
            )
        for name, text in configuration.metrics.items():
            error = self.metric_error(text)
            if error is not None:
                raise InvalidArgumentError(
                    f"Metric '{name[:64]}': {error}", code="invalid-configuration-metric"
                )

    def condition_error(self, text: str) -> str | None:
        """Return what is wrong with a target condition of whatever kind."""
        modules = text.lstrip().lower().startswith("from devices.modules")
        try:
            parse_target(text, collections.MODULES if modules else collections.DEVICES)
        except InvalidArgumentError as error:
            return error.message
        return None

    def metric_error(self, text: str) -> str | None:
        """Return what is wrong with the query of a metric."""
        try:
            query = parse_query(text)
        except InvalidArgumentError as error:
            return error.message
        if query.collection is collections.JOBS:
            return "A metric counts devices or modules, not jobs."
        return None

    def prepare(self, hub: int, configuration: Configuration) -> None:
        """Take a configuration in, or the place of what it was before."""
        of_hub = self._prepared.setdefault(hub, {})
        self._numbers += 1
        prepared = _prepare(configuration, self._numbers)
        if prepared is None:
            of_hub.pop(configuration.id, None)
        else:
            of_hub[configuration.id] = prepared
        self._note(hub)

    def forget(self, hub: int, configuration_id: str) -> None:
        """Leave a configuration out from now on."""
        self._prepared.get(hub, {}).pop(configuration_id, None)
        self._note(hub)

    def conditions(self) -> list[Condition]:
        """Return the target conditions of all hubs."""
        return [each.parsed for of_hub in self._prepared.values() for each in of_hub.values()]

    def kinds(self, hub: int) -> frozenset[Kind]:
        """Return of which kinds there are configurations that target anything."""
        return self._kinds.get(hub, frozenset())

    def look_at_reported(self, hub: int) -> bool:
        """Tell whether any condition looks at reported properties."""
        return hub in self._reported

    def look_at_presence(self, hub: int) -> bool:
        """Tell whether any condition looks at who is connected."""
        return hub in self._presence

    # -- devices -------------------------------------------------------------------------------

    async def matching(
        self, hub: int, device_ids: Sequence[str]
    ) -> dict[str, dict[str, list[str]]]:
        """Return what targets some devices and their modules.

        Returns:
            By device ID, by module ID, the IDs of configurations: those of the device itself
            under `''`, deployments under `$edgeAgent`. What nothing targets is left out.
        """
        if hub in self._volatile:
            await self._connections.write_down(activity=False)
        found: dict[str, dict[str, list[str]]] = {}
        text = _encode(list(device_ids)).decode()
        for statement in self._statements_of(hub):
            params = {**statement.params, "hub": hub, "device_ids": text}
            for row in await self._engine.read(statement.query, params):
                device_id, module_id = cast("Position", row[:2])
                names = [
                    name for name, met in zip(statement.names, row[2:], strict=True) if met == 1
                ]
                if names:
                    found.setdefault(device_id, {}).setdefault(module_id, []).extend(names)
        return found

    async def newcomers(
        self, hub: int, configuration_id: str, after: Position, limit: int
    ) -> list[Position]:
        """Return what a configuration targets but is nothing to yet, behind a position."""
        prepared = self._prepared.get(hub, {}).get(configuration_id)
        if prepared is None:
            return []
        if prepared.volatile:
            # All activity once, at the beginning: that is a look at every connection.
            activity = prepared.lively and after == _BEGINNING
            await self._connections.write_down(activity=activity)
        return await self._newcomers(prepared, _place(hub, configuration_id, after, limit))

    async def _newcomers(self, prepared: _Prepared, params: dict[str, str | int]) -> list[Position]:
        condition = prepared.condition
        sql = (
            f"SELECT t.device_id, t.module_id "  # noqa: S608 - values are parameters
            f"FROM twins t {_joins(prepared.kind, condition.tables)} "
            f"WHERE t.hub = :hub AND {_ROWS[prepared.kind]} AND {condition.sql} "
            "AND (t.device_id, t.module_id) > (:device_id, :module_id) "
            "AND NOT EXISTS (SELECT 1 FROM twin_configurations c WHERE c.hub = t.hub "
            "AND c.configuration_id = :id AND c.device_id = t.device_id "
            f"AND c.module_id = {_HOLDERS[prepared.kind]}) "
            "ORDER BY t.device_id, t.module_id LIMIT :limit"
        )
        query = Query(f"targets.newcomers.{prepared.kind.name}", sql, scan=True)
        rows = await self._engine.read(query, {**condition.params, **params})
        return cast("list[Position]", rows)

    async def holders(
        self, hub: int, configuration_id: str, after: Position, limit: int
    ) -> list[Position]:
        """Return the twins a configuration is anything to, behind a position."""
        params = _place(hub, configuration_id, after, limit)
        return cast("list[Position]", await self._engine.read(_SQL["holders"], params))

    def _note(self, hub: int) -> None:
        """Keep what every change of a twin is measured by."""
        prepared = self._prepared.get(hub, {}).values()
        self._statements.pop(hub, None)
        self._kinds[hub] = frozenset(each.kind for each in prepared)
        for hubs, name in (
            (self._reported, "reported"),
            (self._presence, "presence"),
            (self._volatile, "volatile"),
        ):
            hubs.discard(hub)
            if any(getattr(each, name) for each in prepared):
                hubs.add(hub)

    def _statements_of(self, hub: int) -> list[_Statement]:
        found = self._statements.get(hub)
        if found is None:
            found = self._statements[hub] = [
                statement
                for kind in Kind
                for statement in _assemble(kind, self._prepared.get(hub, {}))
            ]
        return found


_ROWS: Final = {
    Kind.EDGE: "t.module_id = '' AND d.iot_edge = 1",
    Kind.DEVICE: "t.module_id = ''",
    Kind.MODULE: "t.module_id <> ''",
}
"""Which twins a condition is asked of, as SQL."""
_HOLDERS: Final = {Kind.EDGE: f"'{EDGE_AGENT}'", Kind.DEVICE: "''", Kind.MODULE: "t.module_id"}
"""Which twin of a row has the `configurations` section (hub-service.md 6.4), as SQL."""


def _joins(kind: Kind, tables: Iterable[str]) -> str:
    needed = {*tables, *(("d",) if kind is Kind.EDGE else ())}
    return " ".join(JOINS[table] for table in JOINS if table in needed)


def _place(hub: int, configuration_id: str, after: Position, limit: int) -> dict[str, str | int]:
    return {
        "hub": hub,
        "id": configuration_id,
        "device_id": after[0],
        "module_id": after[1],
        "limit": limit,
    }


def _prepare(configuration: Configuration, number: int) -> _Prepared | None:
    """Return the target condition as SQL; `None` when it targets nobody.

    Args:
        configuration: whose.
        number: different for all configurations of a hub.

    Raises:
        InvalidArgumentError: it is none; code `invalid-target-condition`.
    """
    kind = configuration.kind
    modules = kind is Kind.MODULE
    parsed = parse_target(
        configuration.target_condition, collections.MODULES if modules else collections.DEVICES
    )
    if parsed is None:
        return None
    compiled = compile_condition(
        parsed.expression, MODULES if modules else DEVICES, prefix=f"c{number}_"
    )
    names = {path.names for path in paths(parsed.expression)}
    return _Prepared(
        kind,
        parsed,
        compiled,
        reported=any(each[:2] == ("properties", "reported") for each in names),
        presence=("connectionState",) in names,
        volatile=bool(compiled.tables & VOLATILE),
        lively=("lastActivityTime",) in names,
    )


def _assemble(kind: Kind, prepared: dict[str, _Prepared]) -> list[_Statement]:
    """Return the statements that answer all conditions of a kind for a batch of devices."""
    own = [(name, each.condition) for name, each in prepared.items() if each.kind is kind]
    statements: list[_Statement] = []
    for part in _parts(own):
        columns = ", ".join(condition.sql for _, condition in part)
        tables = frozenset().union(*(condition.tables for _, condition in part))
        sql = (
            f"SELECT t.device_id, {_HOLDERS[kind]}, {columns} "  # noqa: S608 - values are parameters
            "FROM json_each(:device_ids) AS wanted CROSS JOIN twins t "
            f"ON t.hub = :hub AND t.device_id = wanted.value {_joins(kind, tables)} "
            f"WHERE {_ROWS[kind]}"
        )
        params = {name: value for _, each in part for name, value in each.params.items()}
        query = Query(f"targets.matching.{kind.name}", sql)
        statements.append(_Statement(query, params, [name for name, _ in part]))
    return statements


def _parts(conditions: list[tuple[str, Compiled]]) -> Iterable[list[tuple[str, Compiled]]]:
    """Split conditions into as many as one statement takes."""
    part: list[tuple[str, Compiled]] = []
    values = 0
    for name, condition in conditions:
        values += len(condition.params)
        if part and (len(part) == _COLUMNS or values > _PARAMETERS):
            yield part
            part, values = [], len(condition.params)
        part.append((name, condition))
    if part:
        yield part
