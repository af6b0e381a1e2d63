"""What one connection may take, and what it has taken of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from muster.wire.amqp.errors import RESOURCE_LIMIT_EXCEEDED, RemoteProtocolError


@final
@dataclass(slots=True, kw_only=True)
class ConnectionLimits:
    """What one connection may take. Sizes in bytes.

    Attributes:
        max_frame_size: of a frame (hub-device.md 3.1).
        channel_max: highest channel, so one less than there may be sessions. The C# SDK puts 995
            devices on a connection.
        handle_max: highest handle in a session (hub-device.md 3.1).
        links: attached at a time, in all sessions.
        attach_size: of the attach frames of those links together.
        incoming_window: transfers a client may send in a session before it hears of more.
        outgoing_window: what clients are told of ours; nobody uses it.
        max_message_size: of a message, unless a link is accepted with less.
        partial_size: of all messages together of which only the first parts are there.
        waiting_size: of all messages together that wait for the client's credit or window.
        idle_time_out: milliseconds of silence that clients are told to keep below; a half more is
            granted, as MQTT does.
    """

    max_frame_size: int = 65_536
    channel_max: int = 1_023
    handle_max: int = 262_143
    links: int = 8_192
    attach_size: int = 4 * 1024 * 1024
    incoming_window: int = 2_048
    outgoing_window: int = 5_000
    max_message_size: int = 1024 * 1024
    partial_size: int = 8 * 1024 * 1024
    waiting_size: int = 64 * 1024 * 1024
    idle_time_out: int = 240_000


@final
class Held:
    """What is held for a client, in all its sessions.

    Attributes:
        partial_size: bytes of messages of which only the first parts are there.
    """

    __slots__ = ("_attach_size", "_limits", "_links", "_waiting_size", "partial_size")

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._links = 0
        self._attach_size = 0
        self._waiting_size = 0
        self.partial_size = 0

    def add_link(self, size: int) -> None:
        """Account for a link, by the size of its attach frame.

        Raises:
            RemoteProtocolError: there are more, or larger ones, than the client may take.
        """
        self._links += 1
        self._attach_size += size
        if self._links > self._limits.links or self._attach_size > self._limits.attach_size:
            raise RemoteProtocolError("too many links", RESOURCE_LIMIT_EXCEEDED)

    def remove_link(self, size: int) -> None:
        """Account for a link that is gone."""
        self._links -= 1
        self._attach_size -= size

    def add_parts(self, size: int) -> None:
        """Account for parts of messages; with a negative size, for those that are whole or gone.

        Raises:
            RemoteProtocolError: there are more than the client may take.
        """
        held = self.partial_size + size
        if held > self._limits.partial_size:
            raise RemoteProtocolError("too many unfinished messages", RESOURCE_LIMIT_EXCEEDED)
        self.partial_size = held

    def add_waiting(self, size: int) -> bool:
        """Account for messages that wait for the client; tell whether it may take so many."""
        self._waiting_size += size
        return self._waiting_size <= self._limits.waiting_size
