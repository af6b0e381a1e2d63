"""Which direct methods a session gets, by what it has subscribed to."""

from __future__ import annotations

import pytest

from muster.wire.mqtt import device_methods


@pytest.mark.parametrize(
    ("filters", "some", "reboot"),
    [
        (None, False, False),
        ({}, False, False),
        ({"$iothub/twin/res/#": 0, "devices/d1/messages/devicebound/#": 1}, False, False),
        ({"$iothub/methods/POST/#": 0}, True, True),
        ({"$iothub/methods/POST/reboot/#": 0}, True, True),
        ({"$iothub/twin/res/#": 0, "$iothub/methods/POST/other": 1}, True, False),
    ],
)
def test_all_some_or_none(filters: dict[str, int] | None, *, some: bool, reboot: bool) -> None:
    assert device_methods.takes_any(filters) is some
    assert device_methods.takes(filters, "reboot") is reboot
