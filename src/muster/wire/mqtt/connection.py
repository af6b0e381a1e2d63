"""The server's end of an MQTT 3.1.1 connection: what a client may send, and when.

1. The first packet is CONNECT [MQTT-3.1.0-1], and it is small: nobody has been asked yet who they
   are, so nobody gets the memory of a full message.
2. After it come PUBLISH of QoS 0 and 1, PUBACK, SUBSCRIBE, UNSUBSCRIBE, PINGREQ and DISCONNECT.
   QoS 2 is not offered (hub-device.md 2.2: the connection is closed), so its acknowledgements
   belong to nothing. A second CONNECT is an error [MQTT-3.1.0-2].
3. After DISCONNECT nothing is read: the client has left in good order whatever bytes follow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from muster.wire.mqtt.bodies import READERS, TYPE_NAMES, Readers
from muster.wire.mqtt.decoder import DEFAULT_MAX_PACKET_SIZE, Decoder, Phase

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.wire.mqtt.packets import Packet

MAX_CONNECT_SIZE: Final = 98_304
"""Bytes of a CONNECT: 64 KiB of will message, and 32 KiB for all else, of which the longest thing
is a user name with DeviceClientType and auth-chain (hub-device.md 2.1)."""

_CONNECT: Final = 0x10
_DISCONNECT: Final = 0xE0
_FROM_CLIENTS: Final = frozenset({3, 4, 8, 10, 12, 14})
_FROM_SERVERS: Final = frozenset({2, 9, 11, 13})


def _only_connect() -> Readers:
    return tuple(
        reader if first >> 4 == 1 else f"the first packet is {TYPE_NAMES[first >> 4]}, not CONNECT"
        for first, reader in enumerate(READERS)
    )


def _all_but_connect() -> Readers:
    readers = list(READERS)
    for first, reader in enumerate(READERS):
        packet_type = first >> 4
        if isinstance(reader, str):
            continue
        if packet_type == 1:
            readers[first] = "second CONNECT"
        elif packet_type in _FROM_SERVERS:
            readers[first] = f"{TYPE_NAMES[packet_type]} is for servers to send"
        elif packet_type not in _FROM_CLIENTS or (packet_type == 3 and first & 4):
            readers[first] = f"{TYPE_NAMES[packet_type]} of QoS 2, which is not offered"
    return tuple(readers)


_GONE: Final = Phase(READERS, last=True)
_CONNECTED: Final = Phase(_all_but_connect(), {_DISCONNECT: _GONE})
_NEW: Final = Phase(_only_connect(), {_CONNECT: _CONNECTED}, MAX_CONNECT_SIZE)


@final
class ServerConnection:
    """Reads one client's bytes, and lets through only what a client may send at that point.

    Args:
        max_packet_size: as for `Decoder`; CONNECT is bounded by `MAX_CONNECT_SIZE` besides.
    """

    __slots__ = ("_decoder", "receive")

    receive: Callable[[bytes | bytearray | memoryview], list[Packet]]
    """Return the packets that these bytes complete; see `Decoder.feed`. The first ever is a
    `Connect` and the last ever may be a `Disconnect`; after that the list is always empty.

    Raises:
        RemoteProtocolError: the client broke the protocol. `reply_hint` is set only for a CONNECT
            that deserves an answer: 1 for another protocol level, 2 for no client identifier.
    """

    def __init__(self, max_packet_size: int = DEFAULT_MAX_PACKET_SIZE) -> None:
        self._decoder = Decoder(max_packet_size, _NEW)
        # The decoder's own method: a forwarding one would cost as much as half a packet.
        self.receive = self._decoder.feed

    @property
    def buffered(self) -> int:
        """Bytes held of an unfinished packet."""
        return self._decoder.buffered
