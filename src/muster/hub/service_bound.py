"""Queues of a hub for its back ends: delivery feedback and file notifications.

Several back ends may receive from one at once; each message goes to one of them.
Sources: hub-service.md 1.1 rows 33-36, 3.4, 3.5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import msgspec
from msgspec import Struct

from muster.hub import queue_rows
from muster.hub.queue_rows import SQL, Address, Kind
from muster.hub.queues import LOCK_S
from muster.model.queued_message import DEFAULT_TTL_S, QueuedMessage

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.clock import Clock
    from muster.hub.queues import Queues
    from muster.hub.receiver import Receiver
    from muster.model.queued_message import Delivery
    from muster.store.engine import Engine, Statement

FILE_NOTIFICATION_TYPE: Final = "application/vnd.microsoft.iothub.filenotification.json"

_encode: Final = msgspec.json.Encoder().encode


class FileNotification(Struct, rename="camel"):
    """A file that a device has uploaded.

    Attributes:
        device_id: who.
        blob_uri: where it is.
        blob_name: its name there, the device's ID in front.
        last_updated_time: when it was written.
        blob_size_in_bytes: of the file.
        enqueued_time_utc: when the device said it was done.
    """

    device_id: str
    blob_uri: str
    blob_name: str
    last_updated_time: str
    blob_size_in_bytes: int
    enqueued_time_utc: str


@final
class ServiceBound:
    """One kind of queue of all hubs.

    Args:
        queues: the mechanism.
        kind: `Kind.FEEDBACK` or `Kind.FILE_NOTIFICATIONS`.
    """

    __slots__ = ("_kind", "_queues")

    def __init__(self, queues: Queues, kind: Kind) -> None:
        self._queues = queues
        self._kind = kind

    def attach(
        self, hub: int, on_waiting: Callable[[], None], lock_s: float | None = None
    ) -> Receiver:
        """Make a connection's end of a hub's queue; see `Queues.attach`."""
        return self._queues.attach(Address(hub, self._kind), on_waiting, lock_s)

    async def receive(self, hub: int, lock_s: float = LOCK_S) -> Delivery | None:
        """Lock the oldest message for `lock_s` seconds; `None` when none is available.

        Raises:
            ConflictError: too many others receive; code `concurrent-update`.
        """
        return await self._queues.receive(Address(hub, self._kind), lock_s)

    async def complete(self, hub: int, token: str) -> None:
        """End a locked message.

        Raises:
            PreconditionFailedError: the lock ran out, or there is no such lock; code
                `message-lock-lost`.
        """
        await self._queues.complete(Address(hub, self._kind), token)

    async def abandon(self, hub: int, token: str) -> None:
        """Give a locked message back; the tenth time ends it. Raises like `complete`."""
        await self._queues.abandon(Address(hub, self._kind), token)


@final
class FileNotifier:
    """Tells back ends of uploaded files.

    Args:
        engine: where the queue is kept.
        clock: for expiry.
        queues: the mechanism.
    """

    __slots__ = ("_clock", "_engine", "_queues")

    def __init__(self, engine: Engine, clock: Clock, queues: Queues) -> None:
        self._engine = engine
        self._clock = clock
        self._queues = queues

    async def notify(self, hub: int, notification: FileNotification, *also: Statement) -> None:
        """Queue a notification; it is durable when this returns.

        Args:
            hub: the hub's number.
            notification: what to tell.
            also: what is committed with it.
        """
        address = Address(hub, Kind.FILE_NOTIFICATIONS)
        now = self._clock.time()
        expires_at = now + DEFAULT_TTL_S
        message = QueuedMessage(content_type=FILE_NOTIFICATION_TYPE, body=_encode(notification))
        await self._engine.write(
            *also,
            queue_rows.insertion(SQL["insert"], address, message, now=now, expires_at=expires_at),
        )
        self._queues.added(address, expires_at)
