"""Messages that wait until a receiver has settled them: one mechanism for every kind of queue.

A message is available, held by one receiver, or gone. Nothing is acknowledged before its commit:
neither a message to its sender nor a settlement to its receiver. There are two ways to hold:

- A *lock*, for receivers that come back by token (HTTP): a token and a deadline in the row, so it
  survives a restart.
- A *receiver*, for connections (MQTT, AMQP): what it holds is known in memory only. It is available
  again the moment the connection is gone, also when it goes because the process was killed, and
  delivering costs no write.

Only abandoning counts as a delivery that failed; a lock that runs out and a connection that breaks
do not. What is held does not expire; it does when it is given back too late. An ended message
leaves a feedback record in the same commit if its sender asked (hub-device.md 7).

Belongs to one event loop. `tick` compares one number with the clock; what falls due is found by
index.
"""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING, Final, NamedTuple, cast, final

import msgspec

from muster.hub import queue_rows
from muster.hub.lines import Lines
from muster.hub.queue_rows import SQL, Address
from muster.hub.receiver import Receiver, lock_lost
from muster.hub.registry import ATTEMPTS, LostRaceError
from muster.model.queued_message import MAX_DELIVERY_COUNT, Ack, Delivery, Outcome
from muster.store.engine import Statement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from muster.bus.base import Bus
    from muster.clock import Clock
    from muster.hub.feedback_records import FeedbackRecords
    from muster.ids import Randomness
    from muster.store.engine import Engine, Params, Query, Value

MESSAGES_WAITING: Final = "hub.messages-waiting"
"""Bus subject; messages are encoded `Address`es of queues in which something became available."""

LOCK_S: Final = 60.0
"""Seconds a message is held, unless its receiver asks for another time (hub-device.md 7)."""
SWEEP_LIMIT: Final = 1_000
"""Messages that expire in one write."""

_encode: Final = msgspec.json.Encoder().encode


class _Held(NamedTuple):
    """What settling needs to know.

    Attributes:
        token: as in the row; `None` when a receiver holds it.
    """

    id: int
    token: str | None
    ack: Ack
    delivery_count: int


@final
class Queues:
    """All queues of all hubs.

    Args:
        engine: where they are kept.
        clock: for expiry and locks.
        randomness: for lock tokens.
        bus: tells every node that something became available.
        records: told of feedback that was written.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        randomness: Randomness,
        bus: Bus,
        records: FeedbackRecords,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._randomness = randomness
        self._bus = bus
        self._records = records
        self._lines: Lines[Address] = Lines()
        self._receivers: dict[Address, list[Receiver]] = {}
        self._held: dict[Address, dict[int, float]] = {}
        self._deadlines: list[tuple[float, str, Receiver]] = []
        self._due = 0.0
        self._unsubscribe: Callable[[], None] | None = None

    def open(self) -> None:
        """Begin to hear of messages. What is stored is looked at by the first tick."""
        self._unsubscribe = self._bus.subscribe(MESSAGES_WAITING, self._messages_waiting)

    def close(self) -> None:
        """Hear nothing more."""
        if self._unsubscribe is not None:
            self._unsubscribe()

    # -- sending -------------------------------------------------------------------------------

    def added(self, address: Address, expires_at: float) -> None:
        """Tell whoever receives from a queue that there is something new."""
        self._due = min(self._due, expires_at)
        self._announce(address)

    # -- receiving by token --------------------------------------------------------------------

    async def receive(self, address: Address, lock_s: float = LOCK_S) -> Delivery | None:
        """Lock the oldest available message.

        Args:
            address: the queue.
            lock_s: for how long.

        Returns:
            The message, `None` when there is none. The lock is durable by then.

        Raises:
            ConflictError: too many others receive from it; code `concurrent-update`.
        """
        async with self._lines.turn(address):
            for _ in range(ATTEMPTS):
                found = await self._available(address, 1)
                if not found:
                    return None
                delivery = found[0]
                now = self._clock.time()
                lock: Params = {
                    "id": delivery.sequence_number,
                    "token": delivery.lock_token,
                    "now": now,
                    "until": now + lock_s,
                }
                lost = LostRaceError("Another receiver was faster.")
                try:
                    await self._engine.write(Statement(SQL["lock"], lock, expect=1, otherwise=lost))
                except LostRaceError:
                    continue
                self._due = min(self._due, now + lock_s)
                return delivery
        raise LostRaceError("The queue is being emptied by others.")

    async def complete(self, address: Address, token: str) -> None:
        """End a locked message: it was processed.

        Raises:
            PreconditionFailedError: the lock ran out, or there is no such lock; code
                `message-lock-lost`.
        """
        await self._end(address, await self._locked(address, token), Outcome.SUCCESS)

    async def reject(self, address: Address, token: str) -> None:
        """End a locked message: it cannot be processed. Raises like `complete`."""
        await self._end(address, await self._locked(address, token), Outcome.REJECTED)

    async def abandon(self, address: Address, token: str) -> None:
        """Give a locked message back, for the last time or once more. Raises like `complete`."""
        await self._give_back(address, await self._locked(address, token))

    # -- receiving on a connection -------------------------------------------------------------

    def attach(
        self, address: Address, on_waiting: Callable[[], None], lock_s: float | None = None
    ) -> Receiver:
        """Make a connection's end of a queue; `Receiver.close` it with the connection.

        Args:
            address: the queue.
            on_waiting: called when something may have become available. Must not block or fail.
            lock_s: after so many seconds a delivery is available to others again; `None` for as
                long as the connection lives.
        """
        receiver = Receiver(self, address, on_waiting, lock_s)
        self._receivers.setdefault(address, []).append(receiver)
        return receiver

    # -- emptying ------------------------------------------------------------------------------

    async def purge(self, address: Address) -> int:
        """End everything in a queue, also what is held; return how many there were.

        Raises:
            ConflictError: too many others settle; code `concurrent-update`.
        """
        for _ in range(ATTEMPTS):
            rows = await self._engine.read(SQL["contents"], address.params)
            count, asked, last = cast("tuple[int, int, int]", rows[0])
            if not count:
                return 0
            params = {**address.params, "last": last}
            lost = LostRaceError("Some of it was settled meanwhile.")
            statements = [Statement(SQL["purge"], params, expect=count, otherwise=lost)]
            if asked:
                statements.insert(0, self._record(SQL["record_purged"], Outcome.PURGED, params))
            try:
                await self._engine.write(*statements)
            except LostRaceError:
                continue
            self._records.note(address.hub, asked)
            return count
        raise LostRaceError("The queue is being emptied by others.")

    # -- what falls due ------------------------------------------------------------------------

    async def tick(self) -> None:
        """Do what has fallen due: let receivers' and other locks run out, end what is too old."""
        now = self._clock.time()
        while self._deadlines and self._deadlines[0][0] <= now:
            _, token, receiver = heapq.heappop(self._deadlines)
            receiver.let_go(token)
        if now < self._due:
            return
        # What is added or given back from here on moves it forward again.
        self._due = math.inf
        try:
            await self._unlock(now)
            await self._expire(now)
            rows = await self._engine.read(SQL["next_due"], {"now": now})
        except BaseException:
            self._due = now
            raise
        expiry, lock = cast("tuple[float | None, float | None]", rows[0])
        self._due = min(self._due, expiry or math.inf, lock or math.inf)

    async def _unlock(self, now: float) -> None:
        lapsed = await self._engine.read(SQL["lapsed"], {"now": now})
        if not lapsed:
            return
        await self._engine.write(Statement(SQL["unlock_lapsed"], {"now": now}))
        for row in lapsed:
            self._announce(Address(*cast("tuple[int, int, str, str]", row)))

    async def _expire(self, now: float) -> None:
        while True:
            held = [
                number
                for messages in self._held.values()
                for number, expires_at in messages.items()
                if expires_at <= now
            ]
            params: Params = {"now": now, "held": _json(held), "limit": SWEEP_LIMIT}
            rows = cast(
                "list[tuple[int, int, int]]", await self._engine.read(SQL["expired"], params)
            )
            if not rows:
                return
            chosen: dict[str, Value] = {"ids": _json(row[0] for row in rows), "now": now}
            asked = [hub for _, hub, wanted in rows if wanted]
            statements = [Statement(SQL["remove_expired"], chosen)]
            if asked:
                statements.insert(0, self._record(SQL["record_expired"], Outcome.EXPIRED, chosen))
            await self._engine.write(*statements)
            for hub in asked:
                self._records.note(hub, 1)
            if len(rows) < SWEEP_LIMIT:
                return

    # -- for receivers -------------------------------------------------------------------------

    async def take(self, receiver: Receiver, limit: int) -> list[Delivery]:
        """Hand available messages to a receiver; see `Receiver.take`."""
        address = receiver.address
        async with self._lines.turn(address):
            found = await self._available(address, limit)
            # If it was closed meanwhile, its connection will never see them.
            if receiver.closed or not found:
                return []
            held = self._held.setdefault(address, {})
            deadline = None if receiver.lock_s is None else self._clock.time() + receiver.lock_s
            for delivery in found:
                held[delivery.sequence_number] = delivery.expires_at
                if deadline is not None:
                    heapq.heappush(self._deadlines, (deadline, delivery.lock_token, receiver))
            return found

    async def settle(self, address: Address, delivery: Delivery, outcome: Outcome | None) -> None:
        """Settle what a receiver holds; `None` gives it back as abandoned.

        Raises:
            PreconditionFailedError: it was purged, or its queue deleted; code
                `message-lock-lost`.
        """
        message = delivery.message
        held = _Held(delivery.sequence_number, None, message.ack, delivery.delivery_count)
        try:
            if outcome is None:
                await self._give_back(address, held)
            else:
                await self._end(address, held, outcome)
        finally:
            self.release(address, [delivery])

    def release(self, address: Address, deliveries: Iterable[Delivery]) -> None:
        """Stop keeping others from messages, and tell them."""
        held = self._held.get(address)
        if held is None:
            return
        now = self._clock.time()
        for delivery in deliveries:
            if held.pop(delivery.sequence_number, now + 1) <= now:
                self._due = now
        if not held:
            del self._held[address]

    def detach(self, receiver: Receiver) -> None:
        """Forget a receiver."""
        receivers = self._receivers.get(receiver.address)
        if receivers and receiver in receivers:
            receivers.remove(receiver)
            if not receivers:
                del self._receivers[receiver.address]

    def nudge(self, address: Address) -> None:
        """Tell this node's receivers that something may have become available."""
        for receiver in list(self._receivers.get(address, ())):
            receiver.on_waiting()

    # -- inside --------------------------------------------------------------------------------

    async def _available(self, address: Address, limit: int) -> list[Delivery]:
        params: Params = {
            **address.params,
            "now": self._clock.time(),
            "held": _json(self._held.get(address, ())),
            "limit": limit,
        }
        rows = await self._engine.read(SQL["next"], params)
        return [queue_rows.to_delivery(row, self._randomness.uuid()) for row in rows]

    async def _locked(self, address: Address, token: str) -> _Held:
        params: Params = {**address.params, "token": token, "now": self._clock.time()}
        rows = await self._engine.read(SQL["locked"], params)
        if not rows:
            raise lock_lost()
        number, ack, delivery_count = cast("tuple[int, str, int]", rows[0])
        return _Held(number, token, Ack(ack), delivery_count)

    async def _end(self, address: Address, held: _Held, outcome: Outcome) -> None:
        params: dict[str, Value] = {"id": held.id, "token": held.token}
        removal = Statement(SQL["remove"], params, expect=1, otherwise=lock_lost())
        if not held.ack.wants(outcome):
            await self._engine.write(removal)
            return
        await self._engine.write(self._record(SQL["record_outcome"], outcome, params), removal)
        self._records.note(address.hub, 1)

    async def _give_back(self, address: Address, held: _Held) -> None:
        if held.delivery_count + 1 >= MAX_DELIVERY_COUNT:
            await self._end(address, held, Outcome.DELIVERY_COUNT_EXCEEDED)
            return
        await self._engine.write(
            Statement(
                SQL["give_back"],
                {"id": held.id, "token": held.token},
                expect=1,
                otherwise=lock_lost(),
            )
        )
        # It may have grown too old while it was held.
        self._due = min(self._due, self._clock.time())
        if held.token is not None:
            self._announce(address)

    def _record(self, query: Query, outcome: Outcome, params: dict[str, Value]) -> Statement:
        return Statement(query, {**params, "outcome": outcome.value, "now": self._clock.time()})

    def _announce(self, address: Address) -> None:
        self._bus.publish(MESSAGES_WAITING, _pack(address))

    def _messages_waiting(self, message: bytes) -> None:
        self.nudge(_unpack(message))


def _json(numbers: Iterable[int]) -> str:
    return _encode(list(numbers)).decode()


_pack: Final = msgspec.msgpack.Encoder().encode
_unpack: Final = msgspec.msgpack.Decoder(Address).decode
