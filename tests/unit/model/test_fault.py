"""Faults as values: what may be asked for, and what a message orders."""

from __future__ import annotations

from typing import Any

import pytest

from muster.errors import InvalidArgumentError
from muster.model import fault as faults
from muster.model.fault import Fault, FaultError, FaultKind, FaultPart, FaultTransport

PREFIX = "AzIoTHub_FaultOperation"


def made(**fields: Any) -> Fault:
    fields.setdefault("kind", FaultKind.RESET)
    fields.setdefault("prefix", "d")
    return Fault(id="f", created_at=0.0, expires_at=fields.pop("duration", 60.0), **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"duration": 0.0},
        {"duration": 86_401.0},
        {"duration": float("nan")},
        {"probability": 0.0},
        {"probability": 1.1},
        {"kind": FaultKind.DELAY},
        {"kind": FaultKind.DELAY, "delay_s": 301.0},
        {"delay_s": 1.0},
        {"error": FaultError.UNAVAILABLE},
        {"kind": FaultKind.REFUSE, "error": FaultError.THROTTLED},
        {"prefix": ""},
        {"device_ids": frozenset({"d"})},
        {"target_condition": "tags.a = 1"},
    ],
    ids=str,
)
def test_what_cannot_be(fields: dict[str, Any]) -> None:
    faults.check(made())
    with pytest.raises(InvalidArgumentError):
        faults.check(made(**fields))


def test_whom_it_names() -> None:
    assert made(prefix="ab").names("abc")
    assert not made(prefix="ab").names("a")
    assert made(prefix="", device_ids=frozenset({"x"})).names("x")
    assert not made(prefix="", target_condition="*").names("x")


def test_a_part_of_amqp_is_met_where_it_is_attached() -> None:
    part = made(transport=FaultTransport.AMQP, part=FaultPart.TELEMETRY)
    assert part.touches(FaultTransport.AMQP, FaultPart.TELEMETRY)
    assert not part.touches(FaultTransport.AMQP, FaultPart.TWIN_REQUEST)
    assert not part.touches(FaultTransport.AMQP)
    assert not part.touches(FaultTransport.MQTT)
    session = made(transport=FaultTransport.AMQP, part=FaultPart.SESSION)
    assert session.touches(FaultTransport.AMQP, FaultPart.TELEMETRY)
    assert made().touches(FaultTransport.HTTPS)


def test_an_order() -> None:
    properties: list[tuple[str, str | None]] = [
        (f"{PREFIX}Type", "KillTcp"),
        (f"{PREFIX}CloseReason", "boom"),
        (f"{PREFIX}DelayInSecs", "2"),
        (f"{PREFIX}DurationInSecs", "99999999"),
        ("other", None),
    ]
    assert faults.order_in(properties) == ("KillTcp", "boom", 2.0, faults.MAX_ORDERED_S)
    assert faults.order_in([(f"{PREFIX}Type", "InvokeThrottling")]) == (
        *("InvokeThrottling", "", 0.0, 0.0),
    )
    odd = [(f"{PREFIX}Type", "KillTcp"), (f"{PREFIX}DelayInSecs", "-1")]
    assert faults.order_in(odd) == ("KillTcp", "", 0.0, 0.0)
    assert faults.order_in([(f"{PREFIX}Type", "killtcp")]) is None
    assert faults.order_in([("a", "b")]) is None
