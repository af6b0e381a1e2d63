"""What devices and modules may subscribe to (hub-device.md 2.3)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Protocol, TypeAlias

import msgspec

from muster.model.method import METHOD_NAME
from muster.wire.mqtt.packets import Suback, Subscribe, Unsuback, Unsubscribe

TopicFilters: TypeAlias = dict[str, int]
"""Granted QoS by topic filter."""

TWIN_RESPONSES: Final = "$iothub/twin/res/#"
TWIN_DESIRED: Final = "$iothub/twin/PATCH/properties/desired/#"
METHODS: Final = "$iothub/methods/POST/#"

MAX_FILTERS: Final = 50
"""Filters of one session. Azure documents 5 at a time (hub-device.md 2.2); this is only a bound."""

_ANY_DEVICE: Final = "devices/+/messages/devicebound/#"
"""How the Embedded C SDK asks for a device's messages (`AZ_IOT_HUB_CLIENT_C2D_SUBSCRIBE_TOPIC`)."""

_SHARED: Final = {text: text for text in (TWIN_RESPONSES, TWIN_DESIRED, METHODS, _ANY_DEVICE)}
# The documentation also allows the methods of one name.
_ONE_METHOD: Final = re.compile(rf"\$iothub/methods/POST/{METHOD_NAME}(/#?)?")
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(TopicFilters).decode


def subscribed(
    before: TopicFilters, request: Subscribe | Unsubscribe
) -> tuple[TopicFilters, Suback | Unsuback]:
    """Return what a session has subscribed to after a request, and the answer to it.

    QoS 2 is not offered: whoever asks for it is granted 1 (hub-device.md 2.2).
    """
    after = dict(before)
    if isinstance(request, Unsubscribe):
        for topic_filter in request.filters:
            after.pop(topic_filter, None)
        return after, Unsuback(request.packet_id)
    granted = [(topic_filter, min(qos, 1)) for topic_filter, qos in request.filters]
    after.update(granted)
    return after, Suback(request.packet_id, [qos for _, qos in granted])


class Identity(Protocol):
    """Whose topics they are."""

    @property
    def device_id(self) -> str:
        """Its device."""

    @property
    def module_id(self) -> str:
        """Empty for the device itself."""


def own_topic(ref: Identity) -> str:
    """Return what an identity's own topics begin with, without a slash at the end."""
    if ref.module_id:
        return f"devices/{ref.device_id}/modules/{ref.module_id}"
    return f"devices/{ref.device_id}"


def message_filters(ref: Identity) -> tuple[str, ...]:
    """Return the filters by which an identity gets cloud-to-device messages."""
    own = own_topic(ref)
    return (
        f"{own}/messages/devicebound/#",
        f"{own}/#" if ref.module_id else _ANY_DEVICE,
    )


def input_filters(ref: Identity) -> tuple[str, ...]:
    """Return the filters by which a module gets what routes send to it; none for a device."""
    own = own_topic(ref)
    return (f"{own}/inputs/#", f"{own}/#") if ref.module_id else ()


def allowed(ref: Identity, topic_filter: str) -> bool:
    """Tell whether an identity may subscribe to a filter (hub-device.md 2.3)."""
    if topic_filter in _SHARED:
        return topic_filter != _ANY_DEVICE or not ref.module_id
    if topic_filter in message_filters(ref) or topic_filter in input_filters(ref):
        return True
    return bool(_ONE_METHOD.fullmatch(topic_filter))


def granted(filters: TopicFilters | None, wanted: Iterable[str]) -> int | None:
    """Return the highest QoS that one of these filters was granted, `None` when none is there."""
    if not filters:
        return None
    return max((filters[each] for each in wanted if each in filters), default=None)


def encode(filters: TopicFilters) -> str:
    """Write filters as they are stored."""
    return _encode(filters).decode()


def decode(text: str | None) -> TopicFilters | None:
    """Read the stored form; `None` for a session that holds nothing."""
    return None if text is None else compact(_decode(text))


def compact(filters: TopicFilters) -> TopicFilters | None:
    """Return filters in the form that takes least memory; `None` for none.

    Equal texts become one object: a hundred thousand sessions hold the same three filters.
    """
    return {_SHARED.get(name, name): qos for name, qos in filters.items()} or None
