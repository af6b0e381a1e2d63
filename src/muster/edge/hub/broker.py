"""From a message that came in to the queues it is for (edge.md 6.2, 6.3)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, final

from muster.clock import format_time
from muster.edge.hub import routes
from muster.edge.hub.queue import Entry, Key
from muster.edge.hub.routes import Input
from muster.edge.measures import Summary, one_of
from muster.errors import MusterError
from muster.language.routes import Message
from muster.model.message import MAX_MESSAGE_SIZE
from muster.wire.mqtt import property_bag

if TYPE_CHECKING:
    from collections.abc import Iterable

    from muster.clock import Clock
    from muster.edge.hub.queues import Queues
    from muster.ids import Randomness
    from muster.model.identity import IdentityRef

UPSTREAM: Final = "upstream"
"""Sink of messages for the cloud; each sender has queues of its own there."""

_OUTPUT: Final = "$.on"
_CONDITION_NAMES: Final = {
    "$.mid": "messageId",
    "$.cid": "correlationId",
    "$.uid": "userId",
    "$.to": "to",
    "$.ct": "contentType",
    "$.ce": "contentEncoding",
    "$.on": "outputName",
    "$.ctime": "creationTime",
    "$.schema": "messageSchema",
    "$.ifid": "interfaceId",
    "$.sub": "dt-subject",
}
"""System properties as conditions name them."""


def inputs(module_id: str) -> str:
    """Return the sink of everything that is for inputs of a module."""
    return f"modules/{module_id}"


class Bag:
    """What a property bag says, read once for all messages that come with it.

    Args:
        ref: the sender.
        text: the bag.
    """

    __slots__ = ("application", "for_inputs", "output", "size", "system", "text")

    def __init__(self, ref: IdentityRef, text: str) -> None:
        self.text = text
        self.application: dict[str, str | None] = {}
        self.system: dict[str, str] = {"connectionDeviceId": ref.device_id}
        if ref.module_id:
            self.system["connectionModuleId"] = ref.module_id
        self.output = ""
        self.size = 0
        passed: list[tuple[str, str | None]] = []
        for name, value in property_bag.decode(text):
            self.size += len(name.encode()) + len((value or "").encode())
            if name == _OUTPUT:
                self.output = value or ""
            else:
                passed.append((name, value))
            if not name.startswith("$."):
                self.application[name] = value
            elif value is not None and name in _CONDITION_NAMES:
                self.system[_CONDITION_NAMES[name]] = value
        passed.append(("$.cdid", ref.device_id))
        if ref.module_id:
            passed.append(("$.cmid", ref.module_id))
        self.for_inputs = property_bag.encode(passed)


@final
class Broker:
    """Queues what clients send.

    Args:
        queues: for it.
        device_id: of this device; messages of others come from downstream.
        clock: for the time of arrival.
        randomness: for message IDs of this hub.

    Attributes:
        routes: all of them.
        received: messages of each client that were accepted, since the start.
        sizes: of their bodies, bytes.
        unrouted: those of them no route wanted.
        unaccepted: messages the disk refused.
    """

    def __init__(
        self, queues: Queues, device_id: str, clock: Clock, randomness: Randomness
    ) -> None:
        self._queues = queues
        self._device_id = device_id
        self._clock = clock
        self._randomness = randomness
        self.routes: tuple[routes.Route, ...] = ()
        self.received: Counter[IdentityRef] = Counter()
        self.sizes: dict[IdentityRef, Summary] = {}
        self.unrouted = 0
        self.unaccepted = 0

    def too_large(self, bag: Bag, body: bytes) -> bool:
        """Tell whether a message is over the limit of the hub (hub-device.md 9)."""
        return bag.size + len(body) > MAX_MESSAGE_SIZE

    async def accept(self, ref: IdentityRef, messages: Iterable[tuple[Bag, bytes]]) -> None:
        """Take messages of a client; returns when they would survive a power cut.

        Calls that begin one after the other are kept in that order.

        Raises:
            UnavailableError: the disk refuses; nothing was accepted.
        """
        entries: list[Entry] = []
        sizes: list[int] = []
        unrouted = 0
        for bag, body in messages:
            sizes.append(len(body))
            path = routes.telemetry_path(ref.module_id, bag.output)
            found = self._entries(ref, bag, body, path)
            unrouted += not found
            entries += found
        if entries:
            try:
                await self._queues.put(entries)
            except MusterError:
                self.unaccepted += len(sizes)
                raise
        self.received[ref] += len(sizes)
        summary = one_of(self.sizes, ref)
        for size in sizes:
            summary.observe(size)
        self.unrouted += unrouted

    async def twin_changed(self, ref: IdentityRef, body: bytes) -> None:
        """Tell those routes that want to know that reported properties have changed.

        Args:
            ref: whose.
            body: `{"properties": {"reported": {…}}}`.

        Raises:
            UnavailableError: the disk refuses.
        """
        bag = Bag(ref, "%24.ct=application%2Fjson&%24.ce=utf-8")
        entries = self._entries(ref, bag, body, routes.twin_change_path())
        if entries:
            await self._queues.put(entries)

    def _entries(
        self, ref: IdentityRef, bag: Bag, body: bytes, path: tuple[str, ...]
    ) -> list[Entry]:
        message = Message(bag.application, self._system(ref, bag), body)
        return [
            _entry(ref, delivery, bag, body)
            for delivery in routes.deliveries(self.routes, path, message)
        ]

    def _system(self, ref: IdentityRef, bag: Bag) -> dict[str, str]:
        """Return the system properties of a message that comes in now."""
        internal = ref.device_id == self._device_id
        return {
            **bag.system,
            "enqueuedTime": format_time(self._clock.now()),
            "edgeMessageId": self._randomness.uuid(),
            "edgeHubOriginInterface": "internal" if internal else "downstream",
        }


def _entry(ref: IdentityRef, delivery: routes.Delivery, bag: Bag, body: bytes) -> Entry:
    sink = delivery.sink
    if isinstance(sink, Input):
        key = Key(inputs(sink.module_id), "", delivery.priority)
        return Entry(key, delivery.ttl_s, f"{sink.name}/{bag.for_inputs}", body)
    key = Key(UPSTREAM, ref.text, delivery.priority)
    return Entry(key, delivery.ttl_s, bag.text, body)
