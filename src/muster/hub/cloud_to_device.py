"""Cloud-to-device messages: a durable queue for every device and every module.

Back ends `send`; the identity receives over its connection (`attach`) or call by call (`receive`
and the three ways to settle). Who holds what, and when it ends, is `muster.hub.queues`.
Sources: hub-device.md 2.6, 4, 7; hub-service.md 1.1 row 32, 3.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from muster.errors import ConflictError, ForbiddenError
from muster.hub import queue_rows
from muster.hub.modules import module_not_found
from muster.hub.queue_rows import SQL, Address, Kind
from muster.hub.queues import LOCK_S
from muster.hub.registry import device_not_found
from muster.model import queued_message

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.clock import Clock
    from muster.hub.queues import Queues
    from muster.hub.receiver import Receiver
    from muster.model.identity import IdentityRef
    from muster.model.queued_message import Delivery, QueuedMessage
    from muster.store.engine import Engine

MAX_DEPTH: Final = 50
"""Messages that may wait for one identity (hub-device.md 7)."""


@final
class CloudToDevice:
    """The queues of all devices and modules.

    Args:
        engine: where identities are kept.
        clock: for expiry.
        queues: the mechanism.
    """

    __slots__ = ("_clock", "_engine", "_queues")

    def __init__(self, engine: Engine, clock: Clock, queues: Queues) -> None:
        self._engine = engine
        self._clock = clock
        self._queues = queues

    async def send(self, ref: IdentityRef, message: QueuedMessage) -> None:
        """Queue a message; it is durable when this returns.

        Args:
            ref: for whom.
            message: what.

        Raises:
            NotFoundError: codes `device-not-found`, `module-not-found`.
            ForbiddenError: 50 messages wait already; code `queue-full`.
            TooLargeError: codes `message-too-large`, `properties-too-large`.
            InvalidArgumentError: codes `invalid-message-id`, `invalid-property`,
                `invalid-expiry`.
        """
        now = self._clock.time()
        expires_at = queued_message.check(message, now)
        address = _address(ref)
        query = SQL["insert_for_module" if ref.module_id else "insert_for_device"]
        insertion = queue_rows.insertion(
            query,
            address,
            message,
            now=now,
            expires_at=expires_at,
            otherwise=_RefusedError("The message was not queued."),
            depth=MAX_DEPTH,
        )
        try:
            await self._engine.write(insertion)
        except _RefusedError:
            await self._check_exists(ref)
            raise ForbiddenError(
                f"{MAX_DEPTH} messages wait for '{ref.text}' already.",
                code="queue-full",
                subject=ref.text,
            ) from None
        self._queues.added(address, expires_at)

    async def purge(self, ref: IdentityRef) -> int:
        """End all messages that wait for an identity, held or not; return how many there were.

        Raises:
            NotFoundError: codes `device-not-found`, `module-not-found`.
            ConflictError: too many others settle; code `concurrent-update`.
        """
        await self._check_exists(ref)
        return await self._queues.purge(_address(ref))

    # -- for the device ------------------------------------------------------------------------

    def attach(
        self, ref: IdentityRef, on_waiting: Callable[[], None], lock_s: float | None = None
    ) -> Receiver:
        """Make a connection's end of an identity's queue; see `Queues.attach`.

        Ask it for messages at once, and again whenever `on_waiting` is called.
        """
        return self._queues.attach(_address(ref), on_waiting, lock_s)

    async def receive(self, ref: IdentityRef, lock_s: float = LOCK_S) -> Delivery | None:
        """Lock the oldest message for `lock_s` seconds; `None` when none is available.

        Raises:
            ConflictError: too many others receive; code `concurrent-update`.
        """
        return await self._queues.receive(_address(ref), lock_s)

    async def complete(self, ref: IdentityRef, token: str) -> None:
        """End a locked message: it was processed.

        Raises:
            PreconditionFailedError: the lock ran out, or there is no such lock; code
                `message-lock-lost`.
        """
        await self._queues.complete(_address(ref), token)

    async def reject(self, ref: IdentityRef, token: str) -> None:
        """End a locked message: it cannot be processed. Raises like `complete`."""
        await self._queues.reject(_address(ref), token)

    async def abandon(self, ref: IdentityRef, token: str) -> None:
        """Give a locked message back; the tenth time ends it. Raises like `complete`."""
        await self._queues.abandon(_address(ref), token)

    async def _check_exists(self, ref: IdentityRef) -> None:
        ((device, module),) = await self._engine.read(SQL["identity"], _address(ref).params)
        if not device:
            raise device_not_found(ref.device_id)
        if ref.module_id and not module:
            raise module_not_found(ref)


@final
class _RefusedError(ConflictError):
    """The queue is full, or there is none."""


def _address(ref: IdentityRef) -> Address:
    return Address(ref.hub, Kind.CLOUD_TO_DEVICE, ref.device_id, ref.module_id)
