"""MQTT 3.1.1: from bytes to packets, for either end of a connection.

`Decoder` knows the form of packets and nothing of connections; which packets a peer may send at
which point is a `Phase`, and the server's phases are in `connection.py`.

Section numbers are those of the OASIS standard "MQTT Version 3.1.1".
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final, NoReturn, final

from muster.wire.mqtt.bodies import READERS, Reader, Readers, topic_name_fault
from muster.wire.mqtt.errors import RemoteProtocolError
from muster.wire.mqtt.packets import Packet, Publish

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_MAX_PACKET_SIZE: Final = 262_144 + 65_537 + 2 + 5
"""Bytes: the largest payload (256 KiB, hub-device.md 2.2) under the longest topic, packet
identifier and fixed header included. Whoever takes the message checks the payload by itself."""

SMALLEST_MAX_PACKET_SIZE: Final = 3 + 0x3FFF
"""Bytes: the largest packet that a length of two bytes can announce. A limit below it is refused,
so that the common short packets need no look at the limit."""

_LONGEST_CACHED_TOPIC: Final = 1024
_QOS_0_PUBLISH: Final = 0x30
_QOS_1_PUBLISH: Final = 0x32
_ALL_BUT_QOS_1: Final = 0xFD
_NOTHING: Final = bytearray()  # shared by all idle decoders, so never written to


@final
class Phase:
    """What a peer may send at one point of a connection.

    Args:
        readers: by first byte of a packet, how to read it or why it is refused.
        then: the phase that follows a packet with this first byte; where there is none, the phase
            goes on.
        max_packet_size: bound in bytes while in this phase, where it is less than the decoder's.
        last: everything from here on is ignored.
    """

    __slots__ = ("last", "max_packet_size", "plain_publish", "readers", "then")

    def __init__(
        self,
        readers: Readers,
        then: Mapping[int, Phase] | None = None,
        max_packet_size: int = sys.maxsize,
        *,
        last: bool = False,
    ) -> None:
        self.readers = readers
        self.then = then or {}
        self.max_packet_size = max_packet_size
        self.last = last
        # What the decoder may read without a look at `readers`; -1 is no byte's value.
        refused = isinstance(readers[_QOS_0_PUBLISH], str) or isinstance(
            readers[_QOS_1_PUBLISH], str
        )
        self.plain_publish = -1 if refused else _QOS_0_PUBLISH


ANY_PACKET: Final = Phase(READERS)
"""Any packet at any time: for clients, whose servers are ours or known."""


@final
class Decoder:
    """Turns the bytes of one connection into packets.

    Between two calls it holds at most one unfinished packet, so at most `max_packet_size` bytes,
    and only of a packet whose header was found right.

    Args:
        max_packet_size: larger packets are refused as soon as their header is known; bytes,
            fixed header included, at least `SMALLEST_MAX_PACKET_SIZE`.
        phase: what the peer may send at first.
    """

    __slots__ = (
        "_failure",
        "_held",
        "_limit",
        "_max_packet_size",
        "_need",
        "_phase",
        "_ready",
        "_topic",
        "_topic_field",
    )

    def __init__(
        self, max_packet_size: int = DEFAULT_MAX_PACKET_SIZE, phase: Phase = ANY_PACKET
    ) -> None:
        if max_packet_size < SMALLEST_MAX_PACKET_SIZE:
            raise ValueError(f"max_packet_size is below {SMALLEST_MAX_PACKET_SIZE} bytes")
        self._max_packet_size = max_packet_size
        self._phase = phase
        self._limit = min(max_packet_size, phase.max_packet_size)
        # False when the next bytes do not begin a packet or are not to be read at all.
        self._ready = True
        self._held = _NOTHING
        self._need = 0  # size of the packet in `_held`; 0 while its header is incomplete
        self._failure: tuple[str, int | None] | None = None
        # A device says most of what it says under one topic, so the last one is kept: the field
        # as it came with its length, and its text.
        self._topic_field: bytes | None = None
        self._topic = ""

    @property
    def buffered(self) -> int:
        """Bytes held of an unfinished packet."""
        return len(self._held)

    def feed(self, data: bytes | bytearray | memoryview) -> list[Packet]:  # noqa: C901, PLR0912, PLR0915 - one loop, nothing called
        """Return the packets that these bytes complete, in order.

        Wherever a stream is cut into chunks, the same packets come out, and the same error after
        the same packets. Remaining lengths of more bytes than needed are read; 3.1.1 allows them.

        PUBLISH packets of QoS 1 and 0, without RETAIN and DUP, are what a busy service spends its
        time on. The loop reads those without calling anything, at about the cost of making their
        values.

        Raises:
            RemoteProtocolError: the peer broke the protocol; also at each later call. Its
                `packets` are those that these bytes completed before the fault.
        """
        if type(data) is not bytes:
            data = bytes(data)
        if not self._ready:
            return self._resume(data)
        packets: list[Packet] = []
        size = len(data)
        position = 0
        phase = self._phase
        plain_publish = phase.plain_publish
        topic = self._topic
        topic_field = self._topic_field
        topic_size = 0 if topic_field is None else len(topic_field)
        new = object.__new__
        try:
            while position < size:
                first = data[position]
                try:
                    remaining = data[position + 1]
                    if remaining < 128:
                        start = position + 2
                    else:
                        more = data[position + 2]
                        if more < 128:
                            remaining += (more - 1) << 7
                            start = position + 3
                        else:
                            remaining, start = self._long_length(data, position)
                except IndexError:
                    self._hold(data, position, 0)
                    break
                end = start + remaining
                if end > size:
                    self._hold(data, position, end - position)
                    break
                position = end
                if first & _ALL_BUT_QOS_1 == plain_publish:
                    topic_end = start + topic_size
                    if data[start:topic_end] != topic_field:
                        if remaining < 2:
                            _fail("PUBLISH is too short")
                        topic_end = start + 2 + (data[start] << 8 | data[start + 1])
                        if topic_end > end:
                            _fail("PUBLISH is too short")
                        topic_field = data[start:topic_end]
                        topic = topic_field[2:].decode()
                        if not topic or "\0" in topic:
                            _fail(f"PUBLISH topic {topic_name_fault(topic)}")
                        topic_size = topic_end - start
                    # As `Publish(...)` would, without the call.
                    publish = new(Publish)
                    publish.topic = topic
                    if first == _QOS_1_PUBLISH:
                        start = topic_end + 2
                        if start > end:
                            _fail("PUBLISH is too short")
                        packet_id = data[topic_end] << 8 | data[topic_end + 1]
                        if not packet_id:
                            _fail("PUBLISH has packet identifier 0")
                        publish.payload = data[start:end]
                        publish.qos = 1
                        publish.packet_id = packet_id
                    else:
                        if topic_end > end:
                            _fail("PUBLISH is too short")
                        publish.payload = data[topic_end:end]
                        publish.qos = 0
                        publish.packet_id = None
                    publish.retain = publish.dup = False
                    packets.append(publish)
                else:
                    packets.append(self._read_other(first, data[start:end]))
                    if phase is not self._phase:
                        phase = self._phase
                        if phase.last:
                            self._ready = False
                            break
                        plain_publish = phase.plain_publish
        except UnicodeDecodeError:
            failure = RemoteProtocolError("PUBLISH topic is not UTF-8")
        except RemoteProtocolError as error:
            failure = error
        else:
            if topic_size <= _LONGEST_CACHED_TOPIC:
                self._topic_field = topic_field
                self._topic = topic
            return packets
        self._ready = False
        self._held = _NOTHING
        self._failure = failure.reason, failure.reply_hint
        failure.packets = packets
        raise failure

    def _resume(self, data: bytes) -> list[Packet]:
        """Go on where the last chunk ended within a packet, if at all."""
        if self._failure is not None:
            raise RemoteProtocolError(*self._failure)
        if self._phase.last:
            return []
        if len(self._held) + len(data) < self._need:
            self._held += data
            return []
        # Joined once for a packet whose length is known, at most four times before that.
        data = b"".join((self._held, data))
        self._held = _NOTHING
        self._ready = True
        return self.feed(data)

    def _hold(self, data: bytes, position: int, need: int) -> None:
        """Keep the unfinished packet at `position`, unless its first byte is wrong already."""
        self._reader(data[position])
        self._held = bytearray(data[position:])
        self._need = need
        self._ready = False

    def _long_length(self, data: bytes, position: int) -> tuple[int, int]:
        """Return a remaining length of three or four bytes and where the body starts (2.2.3).

        Raises:
            IndexError: the length is not complete.
        """
        self._reader(data[position])
        third = data[position + 3]
        remaining = (data[position + 1] & 127) | (data[position + 2] & 127) << 7
        remaining |= (third & 127) << 14
        start = position + 4
        if third > 127:
            fourth = data[start]
            if fourth > 127:
                _fail("remaining length is longer than four bytes")
            remaining |= fourth << 21
            start += 1
        if start - position + remaining > self._limit:
            _fail(f"packet is larger than {self._limit} bytes")
        return remaining, start

    def _reader(self, first: int) -> Reader:
        reader = self._phase.readers[first]
        if isinstance(reader, str):
            raise RemoteProtocolError(reader)
        return reader

    def _read_other(self, first: int, body: bytes) -> Packet:
        """Read any packet by its reader, and enter the phase that it begins."""
        packet = self._reader(first)(body, first & 15)
        phase = self._phase.then.get(first)
        if phase is not None:
            self._phase = phase
            self._limit = min(self._max_packet_size, phase.max_packet_size)
        return packet


def _fail(reason: str) -> NoReturn:
    raise RemoteProtocolError(reason)
