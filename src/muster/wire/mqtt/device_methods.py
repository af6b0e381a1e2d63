"""Direct methods on MQTT: the topics of the request and of the answer (hub-device.md 2.3, 8)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from muster.wire.mqtt import codec
from muster.wire.mqtt.device_filters import METHODS

if TYPE_CHECKING:
    from muster.wire.mqtt.device_filters import TopicFilters

REPLY: Final = "$iothub/methods/res/"
"""Beginning of the topic of every answer."""

_POST: Final = METHODS.removesuffix("#")
# Some clients put more behind the request ID; it is ours, so it is hexadecimal.
_REPLY_TAIL: Final = re.compile(r"(-?[0-9]{1,10})/?\?\$rid=([0-9a-f]{1,16})(&.*)?")
_INT32: Final = range(-(1 << 31), 1 << 31)


class Reply(NamedTuple):
    """What the topic of an answer says."""

    request_id: int
    status: int


def takes(filters: TopicFilters | None, name: str) -> bool:
    """Tell whether a session is subscribed to a method, by itself or with all others."""
    if not filters:
        return False
    own = _POST + name
    return METHODS in filters or any(f"{own}{tail}" in filters for tail in ("", "/", "/#"))


def takes_any(filters: TopicFilters | None) -> bool:
    """Tell whether a session is subscribed to at least one method."""
    return any(name.startswith(_POST) for name in filters or ())


def request(request_id: int, name: str, payload: bytes) -> bytes:
    """Return the PUBLISH that asks: QoS 0, `$rid` first and alone (hub-device.md 0.5)."""
    return codec.encode_publish(f"{_POST}{name}/?$rid={request_id:x}", payload)


def parse_reply(topic: str) -> Reply | None:
    """Read the topic of an answer; `None` when it cannot be one to a request of this service."""
    found = _REPLY_TAIL.fullmatch(topic[len(REPLY) :])
    if found is None or int(found[1]) not in _INT32:
        return None
    return Reply(int(found[2], 16), int(found[1]))
