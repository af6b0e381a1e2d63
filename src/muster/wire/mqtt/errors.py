"""What can go wrong on an MQTT connection, and whose fault it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from muster.wire.mqtt.packets import Packet


class ProtocolError(Exception):
    """Bytes or packets that MQTT 3.1.1 does not allow.

    Raised as one of its two kinds, so that nobody blames the peer for our own mistake.

    Args:
        reason: plain text for logs. Holds nothing the peer wrote.
        reply_hint: CONNACK return code to answer with before closing (hub-device.md 2.1), or None
            to close without a word, which is all MQTT 3.1.1 has for a peer that broke the rules.
    """

    def __init__(self, reason: str, reply_hint: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.reply_hint = reply_hint


@final
class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol; the connection cannot go on.

    `packets` are those that came whole and well in the same chunk before the fault, in order.
    Serving or dropping them are both sound: none of them has been acknowledged.
    """

    def __init__(self, reason: str, reply_hint: int | None = None) -> None:
        super().__init__(reason, reply_hint)
        self.packets: list[Packet] = []


@final
class LocalProtocolError(ProtocolError):
    """We asked for a packet that cannot be written. Nothing was sent."""
