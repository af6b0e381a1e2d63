"""AMQP frames: their headers, and how to find them in a stream (2.2, 2.3)."""

from __future__ import annotations

import struct
from typing import Final, final

from muster.wire.amqp.errors import FRAMING_ERROR, RemoteProtocolError

AMQP_HEADER: Final = b"AMQP\x00\x01\x00\x00"
SASL_HEADER: Final = b"AMQP\x03\x01\x00\x00"

AMQP_FRAME: Final = 0
SASL_FRAME: Final = 1

EMPTY_FRAME: Final = b"\0\0\0\x08\x02\0\0\0"
"""Says nothing but that its sender is alive (2.4.5)."""

HEADER_SIZE: Final = 8
SMALLEST_MAX_FRAME_SIZE: Final = 512
"""Bytes that every peer takes (2.8.19)."""

_HEAD: Final = struct.Struct(">IBBH")
_unpack: Final = _HEAD.unpack_from


def frame(channel: int, *parts: bytes, frame_type: int = AMQP_FRAME) -> bytes:
    """Return a frame with this body."""
    size = HEADER_SIZE + sum(map(len, parts))
    return b"".join((_HEAD.pack(size, 2, frame_type, channel), *parts))


@final
class FrameBuffer:
    """Cuts a stream into protocol headers and frames.

    Holds what has been fed and not been taken; of an unfinished frame, that is less than the
    limit it is asked for with.
    """

    __slots__ = ("_data", "_held", "_need", "_position")

    def __init__(self) -> None:
        self._data = b""
        self._position = 0
        # The beginning of a frame of `_need` bytes; `_data` is used up then.
        self._held: bytearray | None = None
        self._need = 0

    @property
    def buffered(self) -> int:
        """Bytes held."""
        return len(self._data) - self._position + len(self._held or b"")

    def feed(self, data: bytes) -> None:
        """Add bytes."""
        held = self._held
        if held is not None:
            held += data
            if len(held) < self._need:
                return
            self._held = None
            self._data = bytes(held)
        elif self._position < len(self._data):
            self._data = self._data[self._position :] + data
        else:
            self._data = data
        self._position = 0

    def header(self) -> bytes | None:
        """Return the next protocol header, if it is whole."""
        if self._held is not None:
            return None
        start = self._position
        end = start + HEADER_SIZE
        if end > len(self._data):
            self._hold(HEADER_SIZE)
            return None
        self._position = end
        return self._data[start:end]

    def next(self, limit: int) -> tuple[int, int, bytes] | None:
        """Return type, channel and body of the next frame, if it is whole.

        Raises:
            RemoteProtocolError: its header is wrong, or it is larger than `limit` bytes.
        """
        if self._held is not None:
            return None
        data = self._data
        start = self._position
        left = len(data) - start
        if left < HEADER_SIZE:
            self._hold(HEADER_SIZE)
            return None
        size, offset, frame_type, channel = _unpack(data, start)
        body = start + offset * 4
        end = start + size
        if offset < 2 or body > end:
            raise RemoteProtocolError("frame header is wrong", FRAMING_ERROR)
        if size > limit:
            raise RemoteProtocolError(f"frame is larger than {limit} bytes", FRAMING_ERROR)
        if size > left:
            self._hold(size)
            return None
        self._position = end
        return frame_type, channel, data[body:end]

    def clear(self) -> None:
        """Forget what is held."""
        self._data = b""
        self._position = 0
        self._held = None

    def _hold(self, need: int) -> None:
        left = self._data[self._position :]
        self._data = b""
        self._position = 0
        if left:
            self._held = bytearray(left)
            self._need = need
