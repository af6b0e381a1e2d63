"""Faults injected into registrations: what devices see of them on HTTPS and MQTT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from support.device import (
    dps_http,
    dps_login,
    dps_register,
    http_finish,
    http_register,
    registration_token,
    unique,
)
from support.secrets import CLOCK
from support.service import segment

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.instance import Instance

DPS = "/admin/v1/dps"


@pytest.fixture
def instance(new_instance: Callable[..., Instance]) -> Instance:
    """Return one of its own: while faults may be, no poll is answered from memory."""
    found = new_instance()
    found.dps.must("PUT", f"{DPS}/fault-injection", {"enabled": True})
    return found


def begin(instance: Instance, kind: str, **fields: Any) -> str:
    return str(instance.dps.must("POST", f"{DPS}/faults", {"kind": kind, **fields})["id"])


def end(instance: Instance, fault_id: str) -> None:
    instance.dps.must("DELETE", f"{DPS}/faults/{fault_id}")


def enrolled(instance: Instance) -> tuple[str, str]:
    registration_id = unique("Fault")
    key, _ = instance.dps.enroll(registration_id)
    return registration_id, registration_token(instance, registration_id, key)


def test_chosen_devices_are_refused_and_throttled(instance: Instance) -> None:
    chosen, signed = enrolled(instance)
    other, other_signed = enrolled(instance)
    for kind, error, status, number in (
        ("refuse", None, 503, 503000),
        ("refuse", "unauthorized", 401, 401002),
        ("throttle", None, 429, 429001),
        ("throttle", "quota-exceeded", 403, 403000),
    ):
        # Registration IDs have no case.
        fault_id = begin(instance, kind, error=error, deviceIds=[chosen.upper()])
        reply = http_register(instance, chosen, signed)
        assert (reply.status, reply.json["errorCode"]) == (status, number)
        (row,) = instance.explain(reply.json["trackingId"])
        assert row["check"] == "fault-injected"
        assert "muster fault disable --service dps" in row["remedy"]
        assert instance.dps.must("GET", f"{DPS}/faults/{fault_id}")["injected"] == 1
        assert http_register(instance, other, other_signed).status == 202
        end(instance, fault_id)
    first = http_register(instance, chosen, signed)
    begin(instance, "refuse", prefix=chosen[:8].upper())
    path = f"{segment(chosen)}/operations/{first.json['operationId']}"
    assert dps_http(instance, "GET", path, signed).status == 503
    instance.dps.must("PUT", f"{DPS}/fault-injection", {"enabled": False})
    assert http_finish(instance, chosen, signed, first).json["status"] == "assigned"


def test_the_switch_is_told_and_outlives_the_service(instance: Instance) -> None:
    assert instance.facts["dpsFaultInjection"]
    begin(instance, "refuse", prefix="a")
    instance.restart()
    assert instance.facts["dpsFaultInjection"]
    assert instance.dps.must("GET", f"{DPS}/faults") == []
    instance.dps.must("PUT", f"{DPS}/fault-injection", {"enabled": False})
    assert not instance.facts["dpsFaultInjection"]


def test_who_proves_nothing_meets_no_fault(instance: Instance) -> None:
    registration_id, _ = enrolled(instance)
    fault_id = begin(instance, "refuse", deviceIds=[registration_id])
    assert http_register(instance, registration_id, None).status == 401
    assert instance.dps.must("GET", f"{DPS}/faults/{fault_id}")["injected"] == 0


def test_over_mqtt(instance: Instance) -> None:
    registration_id, signed = enrolled(instance)
    begin(instance, "throttle", deviceIds=[registration_id], duration=3_600)
    with dps_login(instance, registration_id, signed) as client:
        reply = dps_register(client)
        assert reply.status == 429
        assert reply.body["errorCode"] == 429001
        assert "retry-after=5" in reply.topic


def test_delays(instance: Instance) -> None:
    registration_id, signed = enrolled(instance)
    begin(instance, "delay", deviceIds=[registration_id], delay=1)
    began = CLOCK.monotonic()
    assert http_register(instance, registration_id, signed).status == 202
    # Never earlier, however fast the machine is.
    assert CLOCK.monotonic() - began >= 1


def test_what_makes_no_fault(instance: Instance) -> None:
    for wrong in (
        {"kind": "reset", "prefix": "a"},
        {"kind": "drop", "prefix": "a"},
        {"kind": "refuse", "targetCondition": "*"},
        {"kind": "refuse"},
        {"kind": "delay", "prefix": "a"},
    ):
        assert instance.dps.call("POST", f"{DPS}/faults", wrong).status == 400
    assert instance.dps.must("GET", f"{DPS}/faults") == []
    instance.dps.must("PUT", f"{DPS}/fault-injection", {"enabled": False})
    assert (
        instance.dps.call("POST", f"{DPS}/faults", {"kind": "refuse", "prefix": "a"}).status == 409
    )
