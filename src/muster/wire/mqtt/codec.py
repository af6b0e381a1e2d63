"""MQTT 3.1.1 between bytes and packets: the decoder and the encoders under one name."""

from __future__ import annotations

from muster.wire.mqtt.decoder import (
    ANY_PACKET,
    DEFAULT_MAX_PACKET_SIZE,
    SMALLEST_MAX_PACKET_SIZE,
    Decoder,
    Phase,
)
from muster.wire.mqtt.encoder import encode, encode_puback, encode_pubacks, encode_publish
from muster.wire.mqtt.errors import LocalProtocolError, ProtocolError, RemoteProtocolError

__all__ = [
    "ANY_PACKET",
    "DEFAULT_MAX_PACKET_SIZE",
    "SMALLEST_MAX_PACKET_SIZE",
    "Decoder",
    "LocalProtocolError",
    "Phase",
    "ProtocolError",
    "RemoteProtocolError",
    "encode",
    "encode_puback",
    "encode_pubacks",
    "encode_publish",
]
