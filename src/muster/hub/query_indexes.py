"""Indexes on the paths of twins that conditions look at.

An index answers the equalities of one condition together: `tags.site = 'a' AND tags.line = 5` has
an index over both expressions. Those of saved conditions are made when the condition is saved,
others when a query with the same equalities is asked for the third time. Every index costs some
microseconds at each write of a twin, so there are few of the second sort. See decision 0014.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from typing import TYPE_CHECKING, Final, TypeAlias, cast, final

import msgspec
from msgspec import Struct

from muster.hub.query_schema import DEVICES, MODULES
from muster.language import collections
from muster.language.sql import compile_condition
from muster.store.engine import Query, Statement
from muster.store.queries import load

if TYPE_CHECKING:
    from collections.abc import Iterable

    from muster.language.conditions import Condition
    from muster.language.sql import Lookup
    from muster.store.engine import Engine, Params

MAX_EXPRESSIONS: Final = 4
"""Expressions of one index; what else a condition asks is looked at row by row."""
MAX_ASKED: Final = 8
"""Indexes for queries that no saved condition wants."""
ASKED_TIMES: Final = 3
"""Times a query must be asked before it gets an index."""
_MAX_REMEMBERED: Final = 1_000
"""Sorts of queries that are counted."""
MIN_DEVICES: Final = 10_000
"""Devices below which no query needs an index to be fast."""

_MODULE_ID: Final = "module_id"
_SQL: Final = load("query_indexes")
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(tuple[str, ...]).decode

_Key: TypeAlias = tuple[bool, tuple[str, ...]]
"""Whether of modules, and the expressions."""


class _Index(Struct):
    """An index that exists."""

    name: str
    modules: bool
    expressions: tuple[str, ...]
    saved: bool
    used: int = 0


@final
class QueryIndexes:
    """The indexes on paths of twins.

    Args:
        engine: where they are made.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._indexes: dict[_Key, _Index] = {}
        self._asked: Counter[_Key] = Counter()
        self._uses = 0
        self._changing = asyncio.Lock()

    async def open(self) -> None:
        """Learn which ones there are; call once."""
        for row in await self._engine.read(_SQL["list"], {}):
            name, modules, expressions, saved = cast("tuple[str, int, str, int]", row)
            index = _Index(name, bool(modules), _decode(expressions), bool(saved))
            self._indexes[index.modules, index.expressions] = index

    async def serve(self, lookups: Iterable[Lookup], *, modules: bool) -> bool:
        """Tell whether an index answers some of a query's equalities; perhaps make one.

        Args:
            lookups: the equalities.
            modules: whether it is asked of modules or of devices.
        """
        key = _key(lookups, modules=modules)
        if key is None:
            return False
        found = self._best(key)
        if found is None or len(found.expressions) < len(key[1]):
            found = await self._consider(key) or found
        if found is None:
            return False
        self._uses += 1
        found.used = self._uses
        return True

    async def keep(self, conditions: Iterable[Condition]) -> None:
        """Have the indexes of all saved conditions, and of no others that once were saved.

        Args:
            conditions: all target conditions of all hubs.
        """
        wanted: dict[_Key, None] = {}
        for condition in conditions:
            modules = condition.collection is collections.MODULES
            compiled = compile_condition(condition.expression, MODULES if modules else DEVICES)
            key = _key(compiled.lookups, modules=modules)
            if key is not None:
                wanted[key] = None
        async with self._changing:
            for key, index in list(self._indexes.items()):
                if index.saved and key not in wanted:
                    await self._drop(key)
            for key in wanted:
                if key not in self._indexes or not self._indexes[key].saved:
                    await self._make(key, saved=True)

    # -- inside --------------------------------------------------------------------------------

    def _best(self, key: _Key) -> _Index | None:
        modules, expressions = key
        fitting = [
            index
            for index in self._indexes.values()
            if index.modules is modules and set(index.expressions) <= set(expressions)
        ]
        return max(fitting, key=lambda index: len(index.expressions), default=None)

    async def _consider(self, key: _Key) -> _Index | None:
        """Make an index for a query that is asked again and again."""
        self._asked[key] += 1
        if self._asked[key] < ASKED_TIMES:
            if len(self._asked) > _MAX_REMEMBERED:
                self._asked.clear()
            return None
        ((devices,),) = cast("list[tuple[int]]", await self._engine.read(_SQL["devices"], {}))
        if devices < MIN_DEVICES:
            return None
        async with self._changing:
            if key in self._indexes:
                return self._indexes[key]
            asked = {each: index for each, index in self._indexes.items() if not index.saved}
            if len(asked) >= MAX_ASKED:
                await self._drop(min(asked, key=lambda each: asked[each].used))
            return await self._make(key, saved=False)

    async def _make(self, key: _Key, *, saved: bool) -> _Index:
        modules, expressions = key
        name = _name(key)
        columns = ", ".join(("hub", *expressions))
        sort = "<>" if modules else "="
        params: Params = {
            "name": name,
            "modules": modules,
            "expressions": _encode(expressions).decode(),
            "saved": saved,
        }
        await self._engine.write(
            Statement(
                Query(
                    f"query_indexes.make.{name}",
                    f"CREATE INDEX IF NOT EXISTS {name} ON twins ({columns}) "
                    f"WHERE module_id {sort} ''",
                ),
                {},
            ),
            Statement(_SQL["save"], params),
        )
        index = self._indexes[key] = _Index(name, modules, expressions, saved)
        return index

    async def _drop(self, key: _Key) -> None:
        index = self._indexes.pop(key)
        await self._engine.write(
            Statement(Query(f"query_indexes.drop.{index.name}", f"DROP INDEX {index.name}"), {}),
            Statement(_SQL["delete"], {"name": index.name}),
        )


def _key(lookups: Iterable[Lookup], *, modules: bool) -> _Key | None:
    """Return what an index for some equalities is made of, `None` when none would help."""
    expressions = {
        lookup.expression
        for lookup in lookups
        if lookup.table == "t" and (lookup.document or lookup.expression == _MODULE_ID)
    }
    if not expressions - {_MODULE_ID}:
        # A module's ID alone is that of a module on every device.
        return None
    return modules, tuple(sorted(expressions)[:MAX_EXPRESSIONS])


def _name(key: _Key) -> str:
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
    return f"twins_by_{digest}"
