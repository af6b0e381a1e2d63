"""The client's end of an MQTT 3.1.1 connection: what a server may send, and what answers what.

1. The first packet is CONNACK [MQTT-3.2.0-1], once.
2. After it come PUBLISH of QoS 0 and 1, PUBACK, SUBACK, UNSUBACK and PINGRESP. QoS 2 is not used,
   so nothing of it may come.
3. Each acknowledgement answers a packet that is waiting for just that [MQTT-2.3.1-6].
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar, final

from muster.wire.mqtt.bodies import READERS, TYPE_NAMES, Readers
from muster.wire.mqtt.decoder import DEFAULT_MAX_PACKET_SIZE, Decoder, Phase
from muster.wire.mqtt.encoder import encode, encode_publish
from muster.wire.mqtt.errors import LocalProtocolError, RemoteProtocolError
from muster.wire.mqtt.packets import Puback, Suback, Subscribe, Unsuback, Unsubscribe

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.wire.mqtt.packets import Packet

T = TypeVar("T")

Answer: TypeAlias = Puback | Suback | Unsuback
"""What a server says to a packet that has an identifier."""

MAX_IN_FLIGHT: Final = 0xFFFF
"""Packets that can wait for their answer at a time: there are no more identifiers."""

_CONNACK: Final = 0x20
_FROM_SERVERS: Final = frozenset({3, 4, 9, 11, 13})
_FROM_CLIENTS: Final = frozenset({1, 8, 10, 12, 14})


def _only_connack() -> Readers:
    return tuple(
        reader if first >> 4 == 2 else f"the first packet is {TYPE_NAMES[first >> 4]}, not CONNACK"
        for first, reader in enumerate(READERS)
    )


def _all_but_connack() -> Readers:
    readers = list(READERS)
    for first, reader in enumerate(READERS):
        packet_type = first >> 4
        if isinstance(reader, str):
            continue
        if packet_type == 2:
            readers[first] = "second CONNACK"
        elif packet_type in _FROM_CLIENTS:
            readers[first] = f"{TYPE_NAMES[packet_type]} is for clients to send"
        elif packet_type not in _FROM_SERVERS or (packet_type == 3 and first & 4):
            readers[first] = f"{TYPE_NAMES[packet_type]} that nothing asked for"
    return tuple(readers)


_CONNECTED: Final = Phase(_all_but_connack())
_NEW: Final = Phase(_only_connack(), {_CONNACK: _CONNECTED})


@final
class ClientConnection(Generic[T]):
    """Reads a server's bytes, and keeps account of what waits for an answer.

    With each packet that is to be answered goes a note of the caller's, for example when it was
    sent; `settle` gives it back.

    Args:
        max_packet_size: as for `Decoder`.
    """

    __slots__ = ("_decoder", "_last_id", "_waiting", "receive")

    receive: Callable[[bytes | bytearray | memoryview], list[Packet]]
    """Return the packets that these bytes complete; see `Decoder.feed`. The first ever is a
    `Connack`.

    Raises:
        RemoteProtocolError: the server broke the protocol.
    """

    def __init__(self, max_packet_size: int = DEFAULT_MAX_PACKET_SIZE) -> None:
        self._decoder = Decoder(max_packet_size, _NEW)
        # The decoder's own method: a forwarding one would cost as much as half a packet.
        self.receive = self._decoder.feed
        self._last_id = 0
        self._waiting: dict[int, tuple[type[Answer], T]] = {}

    @property
    def in_flight(self) -> int:
        """Packets that wait for their answer."""
        return len(self._waiting)

    def publish(self, topic: str, payload: bytes, note: T) -> bytes:
        """Return a PUBLISH of QoS 1 in bytes.

        Raises:
            LocalProtocolError: as `encode`, or `MAX_IN_FLIGHT` packets wait already.
        """
        packet_id = self._free_id()
        data = encode_publish(topic, payload, 1, packet_id)
        self._waiting[packet_id] = Puback, note
        return data

    def subscribe(self, filters: list[tuple[str, int]], note: T) -> bytes:
        """Return a SUBSCRIBE in bytes, of the filters of `Subscribe`; raises like `publish`."""
        packet_id = self._free_id()
        data = encode(Subscribe(packet_id, filters))
        self._waiting[packet_id] = Suback, note
        return data

    def unsubscribe(self, filters: list[str], note: T) -> bytes:
        """Return an UNSUBSCRIBE in bytes; raises like `publish`."""
        packet_id = self._free_id()
        data = encode(Unsubscribe(packet_id, filters))
        self._waiting[packet_id] = Unsuback, note
        return data

    def settle(self, answer: Answer) -> T:
        """Return the note of the packet that this answers; its identifier is free again.

        Raises:
            RemoteProtocolError: nothing waits for that.
        """
        found = self._waiting.get(answer.packet_id)
        if found is None or type(answer) is not found[0]:
            name = type(answer).__name__.upper()
            raise RemoteProtocolError(f"{name} answers nothing that was sent")
        del self._waiting[answer.packet_id]
        return found[1]

    def abandon(self) -> list[T]:
        """Return the notes of all packets that wait, oldest first, and wait for none of them."""
        waiting, self._waiting = self._waiting, {}
        return [note for _, note in waiting.values()]

    def _free_id(self) -> int:
        waiting = self._waiting
        if len(waiting) >= MAX_IN_FLIGHT:
            raise LocalProtocolError("no packet identifier is free")
        packet_id = self._last_id % MAX_IN_FLIGHT + 1
        while packet_id in waiting:
            packet_id = packet_id % MAX_IN_FLIGHT + 1
        self._last_id = packet_id
        return packet_id
