"""Twins on MQTT: the topics of answers and of notifications (hub-device.md 2.3, 2.5)."""

from __future__ import annotations

from typing import Final

from muster.wire.mqtt import codec

_RESPONSE: Final = "$iothub/twin/res"
_DESIRED: Final = "$iothub/twin/PATCH/properties/desired/?$version="


def response(request_id: str, status: int, body: bytes, version: int | None = None) -> bytes:
    """Return the PUBLISH that answers a request.

    Args:
        request_id: of the request, exactly as it was sent.
        status: of the answer.
        body: document, error, or nothing.
        version: of the section that the request has changed; `None` for none.
    """
    topic = f"{_RESPONSE}/{status}/?$rid={request_id}"
    if version is not None:
        topic += f"&$version={version}"
    return codec.encode_publish(topic, body)


def desired(body: bytes, version: int) -> bytes:
    """Return the PUBLISH that tells of changed desired properties."""
    return codec.encode_publish(f"{_DESIRED}{version}", body)
