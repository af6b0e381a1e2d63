"""Consumer groups of the built-in endpoint: names under which readers read (hub-service.md 4.3).

Every hub has `$Default`. Like the hubs themselves they are few and kept in memory.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, cast, final

from msgspec import Struct

from muster.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from muster.store.engine import Statement
from muster.store.queries import load

if TYPE_CHECKING:
    from muster.clock import Clock
    from muster.hub.hubs import Hub
    from muster.store.engine import Engine

DEFAULT_GROUP: Final = "$Default"
MAX_GROUPS: Final = 100
"""Of one hub. Azure stops at 20; this is only a bound."""

_SQL: Final = load("consumer_groups")
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,48}[A-Za-z0-9])?")


class ConsumerGroup(Struct, frozen=True):
    """A consumer group.

    Attributes:
        name: as it was written when it was made; found in any case.
        created_at: unix seconds; `None` for `$Default`.
    """

    name: str
    created_at: float | None = None


_DEFAULT: Final = ConsumerGroup(DEFAULT_GROUP)


@final
class ConsumerGroups:
    """The consumer groups of all hubs.

    Args:
        engine: where they are kept.
        clock: for the time of creation.
    """

    __slots__ = ("_clock", "_engine", "_groups")

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._groups: dict[int, dict[str, ConsumerGroup]] = {}

    async def open(self) -> None:
        """Load all of them; call once, before anything else."""
        for row in await self._engine.read(_SQL["list"], {}):
            hub, name, created_at = cast("tuple[int, str, float]", row)
            self._of(hub)[name.lower()] = ConsumerGroup(name, created_at)

    def all(self, hub: Hub) -> list[ConsumerGroup]:
        """Return the groups of a hub, `$Default` first."""
        return [_DEFAULT, *self._of(hub.id).values()]

    def find(self, hub: Hub, name: str) -> ConsumerGroup | None:
        """Return a group by its name in any case, `None` when there is none."""
        if name.lower() == DEFAULT_GROUP.lower():
            return _DEFAULT
        return self._of(hub.id).get(name.lower())

    async def create(self, hub: Hub, name: str) -> ConsumerGroup:
        """Make a group.

        Raises:
            AlreadyExistsError: code `consumer-group-exists`.
            InvalidArgumentError: code `invalid-consumer-group`.
        """
        exists = AlreadyExistsError(
            f"The consumer group '{name[:64]}' exists already", code="consumer-group-exists"
        )
        if self.find(hub, name) is not None:
            raise exists
        if not _NAME.fullmatch(name):
            raise InvalidArgumentError(
                "A consumer group's name is 1 to 50 letters, digits, dots, hyphens and "
                "underscores, with a letter or digit at both ends",
                code="invalid-consumer-group",
            )
        if len(self._of(hub.id)) >= MAX_GROUPS:
            raise InvalidArgumentError(
                f"A hub has at most {MAX_GROUPS} consumer groups", code="invalid-consumer-group"
            )
        group = ConsumerGroup(name, self._clock.time())
        await self._engine.write(
            Statement(
                _SQL["insert"],
                {"hub": hub.id, "name": name, "created_at": group.created_at},
                expect=1,
                otherwise=exists,
            )
        )
        self._of(hub.id)[name.lower()] = group
        return group

    async def delete(self, hub: Hub, name: str) -> None:
        """Delete a group; `$Default` stays.

        Raises:
            NotFoundError: code `consumer-group-not-found`.
            InvalidArgumentError: it is `$Default`; code `invalid-consumer-group`.
        """
        if self.find(hub, name) is _DEFAULT:
            raise InvalidArgumentError(
                f"Every hub has {DEFAULT_GROUP}; it cannot be deleted",
                code="invalid-consumer-group",
            )
        await self._engine.write(
            Statement(
                _SQL["delete"],
                {"hub": hub.id, "name": name},
                expect=1,
                otherwise=NotFoundError(
                    f"There is no consumer group '{name[:64]}'", code="consumer-group-not-found"
                ),
            )
        )
        self._of(hub.id).pop(name.lower(), None)

    def _of(self, hub: int) -> dict[str, ConsumerGroup]:
        return self._groups.setdefault(hub, {})
