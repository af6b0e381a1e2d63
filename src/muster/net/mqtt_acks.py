"""PUBACKs in the order of their PUBLISHes, whatever they wait for [MQTT-4.6.0-2]."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from muster.wire.mqtt import codec

if TYPE_CHECKING:
    from muster.net.mqtt import MqttPeer


@final
class Acknowledgement:
    """PUBACKs that leave together, once what they stand for is safe.

    Attributes:
        packet_ids: of the PUBLISHes.
        size: bytes they hold up meanwhile.
        done: whether they may leave.
    """

    __slots__ = ("done", "packet_ids", "size")

    def __init__(self, packet_ids: list[int], size: int) -> None:
        self.packet_ids = packet_ids
        self.size = size
        self.done = False


@final
class Acknowledgements:
    """Those of one connection.

    Args:
        peer: gets them.
    """

    __slots__ = ("_line", "_peer")

    def __init__(self, peer: MqttPeer) -> None:
        self._peer = peer
        self._line: list[Acknowledgement] = []

    def expect(self, packet_ids: list[int], size: int = 0) -> Acknowledgement:
        """Take a place in the order; the packet IDs may be none."""
        acknowledgement = Acknowledgement(packet_ids, size)
        self._line.append(acknowledgement)
        return acknowledgement

    def give(self, acknowledgement: Acknowledgement) -> None:
        """Send the PUBACKs of something that is done now, when it is its turn."""
        acknowledgement.done = True
        line = self._line
        if line[0] is acknowledgement and len(line) == 1:
            # As good as always.
            line.clear()
            packet_ids = acknowledgement.packet_ids
            if len(packet_ids) == 1:
                self._peer.write(codec.encode_puback(packet_ids[0]))
            elif packet_ids:
                self._peer.write(codec.encode_pubacks(packet_ids))
            return
        packet_ids = []
        while line and line[0].done:
            packet_ids += line.pop(0).packet_ids
        if packet_ids:
            self._peer.write(codec.encode_pubacks(packet_ids))
