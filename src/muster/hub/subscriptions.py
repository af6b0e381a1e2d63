"""MQTT sessions: keeping the subscriptions of devices and modules.

The SDKs connect with CleanSession 0 and do not subscribe again after a reconnect, so a lost
subscription means a device that is deaf without knowing it (hub-device.md 0.1). Subscriptions are
therefore committed before the SUBACK, and survive disconnects and restarts until the client
unsubscribes, connects with CleanSession 1, or its identity is deleted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast, final

from muster.errors import NotFoundError
from muster.store.engine import Statement
from muster.store.queries import load
from muster.wire.mqtt import device_filters

if TYPE_CHECKING:
    from muster.model.identity import IdentityRef
    from muster.store.engine import Engine
    from muster.wire.mqtt.device_filters import TopicFilters

_SQL: Final = load("mqtt_sessions")


@final
class Subscriptions:
    """The stored sessions.

    Args:
        engine: where they are kept.
    """

    __slots__ = ("_engine",)

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def load(self, ref: IdentityRef) -> TopicFilters | None:
        """Return a session, `None` when it holds nothing."""
        rows = await self._engine.read(_SQL["get"], _key(ref))
        return device_filters.decode(cast("str", rows[0][0])) if rows else None

    async def save(self, ref: IdentityRef, filters: TopicFilters) -> None:
        """Keep a session; returns when it would survive a crash.

        Raises:
            NotFoundError: the identity was deleted; code `device-not-found`.
        """
        if not filters:
            await self.forget(ref)
            return
        await self._engine.write(
            Statement(
                _SQL["save"],
                {**_key(ref), "subscriptions": device_filters.encode(filters)},
                expect=1,
                otherwise=NotFoundError(
                    "The identity does not exist any more",
                    code="device-not-found",
                    subject=ref.text,
                ),
            )
        )

    async def forget(self, ref: IdentityRef) -> None:
        """Drop a session."""
        await self._engine.write(Statement(_SQL["delete"], _key(ref)))


def _key(ref: IdentityRef) -> dict[str, str | int]:
    return {"hub": ref.hub, "device_id": ref.device_id, "module_id": ref.module_id}
