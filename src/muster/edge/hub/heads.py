"""What the connections of clients share, whatever they speak."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, final

from muster.edge.hub.database import SQL, decoded
from muster.store.engine import Statement
from muster.wire.mqtt import device_filters

if TYPE_CHECKING:
    from muster.clock import Clock
    from muster.edge.hub.authentication import Authenticator
    from muster.edge.hub.broker import Broker
    from muster.edge.hub.clients import Clients
    from muster.edge.hub.methods import Methods
    from muster.edge.hub.queues import Queues
    from muster.edge.hub.twins import Twins
    from muster.ids import Randomness
    from muster.model.identity import IdentityRef
    from muster.store.engine import Engine
    from muster.wire.mqtt.device_filters import TopicFilters


@final
class MqttSessions:
    """What clients with CleanSession 0 have subscribed to; they do not say it again.

    Args:
        engine: keeps it.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def load(self, ref: IdentityRef) -> TopicFilters | None:
        """Return a session, `None` when it holds nothing."""
        rows = await self._engine.read(SQL["session"], {"identity": ref.text})
        filters = (
            decoded(rows[0][0], dict[str, int], f"the session of {ref.text}") if rows else None
        )
        return filters and device_filters.compact(filters)

    async def save(self, ref: IdentityRef, filters: TopicFilters) -> None:
        """Keep a session; returns when it would survive a power cut."""
        row = {"identity": ref.text, "subscriptions": device_filters.encode(filters)}
        await self._engine.write(Statement(SQL["put_session"], row))

    async def forget(self, ref: IdentityRef) -> None:
        """Drop a session; nothing is written where there is none, as for most that ask for it."""
        if not await self._engine.read(SQL["session"], {"identity": ref.text}):
            return
        await self._engine.write(Statement(SQL["drop_session"], {"identity": ref.text}))


class Services(NamedTuple):
    """Of the edge hub.

    Attributes:
        device_id: of this device.
        hosts: names that clients may call the hub.
        authenticator: see there.
        clients: likewise.
        broker: likewise.
        queues: likewise.
        twins: likewise.
        methods: likewise.
        sessions: likewise.
        clock: for time.
        randomness: for tracking IDs.
    """

    device_id: str
    hosts: tuple[str, ...]
    authenticator: Authenticator
    clients: Clients
    broker: Broker
    queues: Queues
    twins: Twins
    methods: Methods
    sessions: MqttSessions
    clock: Clock
    randomness: Randomness
