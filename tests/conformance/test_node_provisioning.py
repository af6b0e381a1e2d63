"""Provisioning with npm's `azure-iot-provisioning-device` over every transport."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from support.device import unique
from support.node import run_script, value_of
from support.secrets import derive, new_key

if TYPE_CHECKING:
    import pytest

    from support.instance import Instance

TRANSPORTS = ("http", "mqtt", "mqtt-ws", "amqp", "amqp-ws")


def assigned(instance: Instance) -> list[dict[str, Any]]:
    """Enroll what must be assigned: each kind of key over each transport."""
    dps = instance.dps
    group_keys = dps.enroll_group(unique("node-group"))
    devices: list[dict[str, Any]] = []
    for transport in TRANSPORTS:
        for which, name in enumerate(("primary", "secondary")):
            registration_id = unique("Node-Indi")
            key = dps.enroll(registration_id)[which]
            devices.append({"name": f"individual {name}", "id": registration_id, "key": key})
            member_id = unique("node-member")
            key = derive(group_keys[which], member_id)
            devices.append({"name": f"group {name}", "id": member_id, "key": key})
        registration_id = unique("node-payload")
        key, _ = dps.enroll(registration_id)
        payload = {"model": "x", "deep": {"er": [1, None]}}
        devices.append({"name": "payload", "id": registration_id, "key": key, "payload": payload})
        for device in devices:
            device.setdefault("transport", transport)
    return devices


def refused(instance: Instance) -> list[dict[str, Any]]:
    """Enroll what must not be assigned."""
    dps = instance.dps
    devices = []
    for transport in TRANSPORTS:
        dps.enroll(known := unique("node-wrong"))
        key, _ = dps.enroll(disabled := unique("node-disabled"), provisioningStatus="disabled")
        nowhere: dict[str, Any] = {
            "allocationPolicy": "static",
            "iotHubs": ["gone.muster.localhost"],
        }
        other, _ = dps.enroll(failed := unique("node-failed"), **nowhere)
        devices += [
            {"name": "wrong key", "id": known, "key": new_key()},
            {"name": "unknown", "id": unique("node-unknown"), "key": new_key()},
            {"name": "disabled", "id": disabled, "key": key},
            {"name": "failed", "id": failed, "key": other},
        ]
        for device in devices:
            device.setdefault("transport", transport)
    return devices


def test_all_transports_and_keys(instance: Instance, subtests: pytest.Subtests) -> None:
    good, bad = assigned(instance), refused(instance)
    devices = [
        {
            **device,
            "registrationId": device["id"],
            "name": f"{device['name']} over {device['transport']}",
        }
        for device in good + bad
    ]
    context = {"host": instance.place.dps, "idScope": instance.id_scope, "devices": devices}
    results = run_script(instance, "provisioning.js", context)
    assert len(results) == len(devices)
    times = sorted(outcome["seconds"] for outcome in results.values())
    print(f"register() took {times[0]:.2f} to {times[-1]:.2f} s for {len(times)} devices at once")

    for device in devices[: len(good)]:
        with subtests.test(msg=device["name"]):
            state = value_of(results, device["name"])
            assert state["status"] == "assigned"
            assert state["deviceId"] == device["registrationId"]
            assert state["assignedHub"] in instance.place.hubs
            instance.hub(state["assignedHub"]).must("GET", f"/devices/{state['deviceId']}")
    names = {
        "wrong key": "UnauthorizedError",
        "unknown": "UnauthorizedError",
        "disabled": "SyntaxError",
        "failed": "ProvisioningRegistrationFailedError",
    }
    for device in devices[len(good) :]:
        with subtests.test(msg=device["name"]):
            outcome = results[device["name"]]
            kind = device["name"].partition(" over ")[0]
            if device["transport"].startswith("amqp") and kind in {"wrong key", "unknown"}:
                # Told while the connection is opened; the SDK hands on what rhea says.
                assert outcome["error"]["condition"] == "amqp:unauthorized-access"
                continue
            assert outcome["error"]["name"] == names[kind], outcome
