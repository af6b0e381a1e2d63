"""Who meets which injected fault: what transports ask before they act.

They ask at few points (`HubFaults.choose`) and do what the fault says in their own way. Every
injection is counted, and on record as what it is, so that nobody looks for a cause in vain. No
fault loses what was acknowledged.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, final

from muster.faults.live import CreatedFaults, LiveFault, failure, find
from muster.model import fault as faults
from muster.model import message as messages
from muster.model.decision import Decision
from muster.model.fault import Fault, FaultKind
from muster.wire.mqtt import property_bag

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from muster.clock import Clock
    from muster.hub.connections import Connections
    from muster.hub.hubs import Hub
    from muster.ids import Randomness
    from muster.model.fault import FaultPart, FaultTransport, Order
    from muster.model.identity import IdentityRef

MAX_ORDERS: Final = 10_000
"""Faults of one hub that devices have ordered."""

_LEAST_DELAY_S: Final = 0.1
"""The acknowledgement of a message that orders a fault leaves before the fault begins; without it
the device would send the message again, and meet the fault for ever."""
AT_ONCE: Final = 200
"""Devices that are looked at together."""
_OPERATION: Final = faults.OPERATION_TYPE.encode()


@final
class HubFaults:
    """The faults of a hub for which fault injection is on; `Hub.faults`.

    Args:
        hub: whose they are.
        clock: for their ends.
        randomness: for probabilities.
        connections: who is connected.
        record: puts an injection on record.
        count: counts an injection, by its kind.
    """

    def __init__(
        self,
        hub: Hub,
        *,
        clock: Clock,
        randomness: Randomness,
        connections: Connections,
        record: Callable[[Decision], None],
        count: Callable[[str], None],
    ) -> None:
        self._hub = hub
        self._clock = clock
        self._randomness = randomness
        self._connections = connections
        self._record = record
        self._count = count
        self._created = CreatedFaults(clock)
        self._ordered: dict[IdentityRef, LiveFault] = {}
        self._waiting: set[asyncio.TimerHandle] = set()

    # -- what transports ask -------------------------------------------------------------------

    def choose(
        self,
        ref: IdentityRef,
        kinds: Collection[FaultKind],
        transport: FaultTransport,
        part: FaultPart | None = None,
    ) -> Fault | None:
        """Return the fault that somebody meets now, which is then on record.

        Called for every connect, call or batch of messages, not for every message.

        Args:
            ref: who.
            kinds: what can be done at this point.
            transport: over which protocol.
            part: the link that is being attached; `None` for anything else.
        """
        now = self._clock.monotonic()
        ordered = self._ordered.get(ref)
        created = self._created.all()
        for live in (ordered, *created) if ordered else created:
            fault = live.fault
            if (
                fault.kind in kinds
                and fault.touches(transport, part)
                and live.concerns(ref.device_id)
                and not live.over(now)
                and live.met(self._randomness)
            ):
                self._note(live, ref)
                return fault
        return None

    def check(
        self, ref: IdentityRef, kinds: Collection[FaultKind], transport: FaultTransport
    ) -> None:
        """Like `choose`, for points at which nothing can be done but to fail.

        Raises:
            MusterError: see `failure`.
        """
        fault = self.choose(ref, kinds, transport)
        if fault is not None:
            raise failure(fault)

    def when_stored(
        self, ref: IdentityRef, records: Sequence[bytes], stored: asyncio.Future[list[int]]
    ) -> None:
        """Like `look_at`, as soon as the messages are durable.

        Call it after whoever acknowledges them has asked to be told of that.
        """

        def look(future: asyncio.Future[list[int]]) -> None:
            if not future.cancelled() and future.exception() is None:
                self.look_at(ref, records)

        stored.add_done_callback(look)

    def look_at(self, ref: IdentityRef, records: Iterable[bytes]) -> None:
        """Find out whether messages that were stored order a fault for who sent them."""
        for record in records:
            if _OPERATION not in record:
                continue
            order = faults.order_in(property_bag.decode(messages.decode(record).bag))
            if order is not None and len(self._waiting) < MAX_ORDERS:
                self._schedule(ref, order)

    # -- what operators ask --------------------------------------------------------------------

    def all(self) -> list[LiveFault]:
        """Return all faults that have not ended, the oldest first."""
        self._forget_ended()
        return [*self._created.all(), *self._ordered.values()]

    def find(self, fault_id: str) -> LiveFault:
        """Return a fault.

        Raises:
            NotFoundError: code `fault-not-found`.
        """
        return find(self.all(), fault_id)

    def add(self, live: LiveFault) -> None:
        """Let a fault begin.

        Raises:
            ConflictError: there are too many; code `too-many-faults`.
        """
        self._created.add(live)

    def delete(self, fault_id: str) -> None:
        """End a fault. Raises like `find`."""
        live = self.find(fault_id)
        self._created.remove(fault_id)
        for ref in [ref for ref, each in self._ordered.items() if each is live]:
            del self._ordered[ref]

    def conditional(self) -> list[LiveFault]:
        """Return the faults that have a target condition."""
        return [live for live in self.all() if live.condition is not None]

    async def begin(self, live: LiveFault, device_ids: Iterable[str] | None = None) -> None:
        """End the connections that are there, if the fault is of a kind that does.

        Args:
            live: the fault.
            device_ids: of these only.
        """
        if not live.fault.ends_connections:
            return
        if device_ids is None:
            device_ids = list(self._connections.device_ids(self._hub.id))
        for number, device_id in enumerate(device_ids):
            if live.concerns(device_id):
                for connection in self._connections.of_device(self._hub.id, device_id):
                    if live.met(self._randomness) and connection.link.fault_began(live.fault):
                        self._note(live, connection.ref)
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)

    def close(self) -> None:
        """Fault injection is switched off: nothing that was ordered begins any more."""
        for handle in self._waiting:
            handle.cancel()
        self._waiting.clear()

    # -- inside --------------------------------------------------------------------------------

    def _note(self, live: LiveFault, ref: IdentityRef) -> None:
        fault = live.fault
        self._count(fault.kind)
        times = live.count(ref, self._clock.monotonic())
        if not times:
            return
        host = self._hub.host
        self._record(
            live.decision(
                host, f"--hub {host}", ref.text, times, self._clock, self._randomness.uuid()
            )
        )

    def _schedule(self, ref: IdentityRef, order: Order) -> None:
        def begin() -> None:
            self._waiting.discard(handle)
            self._carry_out(ref, order)

        delay_s = max(order.delay_s, _LEAST_DELAY_S)
        handle = asyncio.get_running_loop().call_later(delay_s, begin)
        self._waiting.add(handle)

    def _carry_out(self, ref: IdentityRef, order: Order) -> None:
        kind, error, transport, part = faults.ORDERED[order.type]
        now = self._clock.time()
        text = f"{order.type} ({order.reason})" if order.reason else order.type
        fault = Fault(
            id=self._randomness.uuid(),
            kind=kind,
            error=error,
            transport=transport,
            part=part,
            device_ids=frozenset({ref.device_id}),
            created_at=now,
            expires_at=now + order.duration_s,
            ordered=text,
        )
        live = LiveFault(fault, self._clock.monotonic() + order.duration_s)
        self._forget_ended()
        if order.duration_s and len(self._ordered) < MAX_ORDERS:
            self._ordered[ref] = live
        connection = self._connections.get(ref)
        if connection is None or not fault.ends_connections:
            return
        if connection.link.fault_began(fault):
            self._note(live, ref)

    def _forget_ended(self) -> None:
        now = self._clock.monotonic()
        self._ordered = {ref: live for ref, live in self._ordered.items() if not live.over(now)}
