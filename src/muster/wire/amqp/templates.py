"""Messages of which many are alike: what they share is encoded once."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Final, final

from muster.wire.amqp import encoder, messages
from muster.wire.amqp.types import Symbol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muster.wire.amqp.messages import Message
    from muster.wire.amqp.types import Value

_map_head: Final = struct.Struct(">3sBII").pack


@final
class Template:
    """A message without the values of some annotations and without a body of data.

    Args:
        message: what all have in common: properties, application properties, message annotations.
        varying: names of further message annotations.
    """

    __slots__ = ("_count", "_fixed", "_names", "_rest")

    def __init__(self, message: Message, varying: Sequence[str]) -> None:
        annotations = message.message_annotations
        self._count = 2 * (len(annotations) + len(varying))
        self._fixed = b"".join(
            encoder.encode(Symbol(key)) + encoder.encode(value)
            for key, value in annotations.items()
        )
        self._names = [encoder.encode(Symbol(name)) for name in varying]
        self._rest = messages.encode(replace(message, message_annotations={})) + b"\0\x53\x75"

    def encode(self, values: Sequence[Value], body: bytes, before: bytes = b"") -> bytes:
        """Return a whole message in bytes.

        Args:
            values: of the varying annotations.
            body: of the message.
            before: sections that stand in front; see `delivery_annotations`.

        Raises:
            LocalProtocolError: a value is not of a type that AMQP has.
        """
        parts = [self._fixed]
        for name, value in zip(self._names, values, strict=True):
            parts += (name, encoder.encode(value))
        entries = b"".join(parts)
        head = _map_head(b"\0\x53\x72", 0xD1, len(entries) + 4, self._count)
        return b"".join((before, head, entries, self._rest, encoder.encode_binary(body)))


def delivery_annotations(annotations: dict[str, Value]) -> bytes:
    """Return a section of delivery annotations, for messages that share it."""
    return b"\0\x53\x71" + encoder.encode(
        {Symbol(name): value for name, value in annotations.items()}
    )
