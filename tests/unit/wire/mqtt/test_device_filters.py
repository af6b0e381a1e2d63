"""What devices and modules may subscribe to, and what they get by it."""

from __future__ import annotations

import pytest

from muster.model.identity import IdentityRef
from muster.wire.mqtt.device_filters import allowed, granted, input_filters, message_filters

DEVICE = IdentityRef(1, "d1")
MODULE = IdentityRef(1, "d1", "m1")


@pytest.mark.parametrize(
    ("topic_filter", "device", "module"),
    [
        ("devices/d1/messages/devicebound/#", True, False),
        ("devices/+/messages/devicebound/#", True, False),
        ("devices/d1/modules/m1/messages/devicebound/#", False, True),
        ("devices/d1/modules/m1/inputs/#", False, True),
        ("devices/d1/modules/m1/#", False, True),
        ("$iothub/methods/POST/#", True, True),
        ("$iothub/methods/POST/reboot/#", True, True),
        ("$iothub/twin/res/#", True, True),
        ("$iothub/twin/PATCH/properties/desired/#", True, True),
        ("devices/d2/messages/devicebound/#", False, False),
        ("devices/+/messages/events/#", False, False),
        ("devices/+/modules/+/messages/devicebound/#", False, False),
        ("devices/d1/#", False, False),
        ("devices/#", False, False),
        ("#", False, False),
        ("+/#", False, False),
    ],
)
def test_who_may_subscribe_to_what(topic_filter: str, *, device: bool, module: bool) -> None:
    assert allowed(DEVICE, topic_filter) is device
    assert allowed(MODULE, topic_filter) is module


def test_the_highest_quality_of_service_counts() -> None:
    own, any_device = message_filters(DEVICE)
    assert granted(None, message_filters(DEVICE)) is None
    assert granted({any_device: 1}, message_filters(DEVICE)) == 1
    assert granted({own: 0, any_device: 1}, message_filters(DEVICE)) == 1
    assert granted({own: 0}, message_filters(DEVICE)) == 0
    assert input_filters(DEVICE) == ()
    assert granted({"devices/d1/modules/m1/#": 1}, input_filters(MODULE)) == 1
    assert granted({"devices/d1/modules/m1/inputs/#": 1}, message_filters(MODULE)) is None
