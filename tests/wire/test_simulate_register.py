"""`simulate-register` comes as the device would, and the service takes it for one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.device import unique
from support.instance import InstanceError

if TYPE_CHECKING:
    from support.instance import Instance


def test_a_device_with_an_enrollment_of_its_own(instance: Instance) -> None:
    registration_id = unique("simulated")
    instance.dps.enroll(registration_id)
    for options in ((), ("--secondary",)):
        state = instance.cli("enrollment", "simulate-register", registration_id, *options)
        assert state["status"] == "assigned"
        assert state["deviceId"] == registration_id
    identity = instance.hub(state["assignedHub"]).must("GET", f"/devices/{registration_id}")
    assert identity["status"] == "enabled"


def test_a_device_of_a_group(instance: Instance) -> None:
    group_id, registration_id = unique("simulated-group"), unique("Simulated")
    instance.dps.enroll_group(group_id)
    for options in ((), ("--secondary",)):
        state = instance.cli(
            "enrollment-group", "simulate-register", group_id, registration_id, *options
        )
        assert state["status"] == "assigned"
        assert state["registrationId"] == registration_id
    (latest, *_) = instance.explain(registration_id)
    assert latest["facts"]["entry"] == f"enrollment group {group_id}"
    assert latest["facts"]["key"] == "the secondary key"


def test_what_does_not_work_fails(instance: Instance) -> None:
    registration_id = unique("simulated-off")
    instance.dps.enroll(registration_id, provisioningStatus="disabled")
    with pytest.raises(InstanceError, match=f"muster registration explain {registration_id}"):
        instance.cli("enrollment", "simulate-register", registration_id)
    with pytest.raises(InstanceError, match="not found"):
        instance.cli("enrollment", "simulate-register", unique("nobody"))
