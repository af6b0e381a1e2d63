"""Provisioning with `azure-iot-device`: every key, both transports, every refusal."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from azure.iot.device import ProvisioningDeviceClient
from azure.iot.device.common import alarm
from azure.iot.device.common.auth import sastoken
from azure.iot.device.common.pipeline import pipeline_stages_base
from azure.iot.device.exceptions import ClientError

from support.device import unique
from support.secrets import CLOCK, derive, new_key
from support.service import segment

if TYPE_CHECKING:
    from azure.iot.device.provisioning.models.registration_result import RegistrationState

    from support.instance import Instance

both_transports = pytest.mark.parametrize("websockets", [False, True], ids=["mqtt", "websockets"])
both_keys = pytest.mark.parametrize("which", [0, 1], ids=["primary", "secondary"])


def register(
    instance: Instance,
    registration_id: str,
    key: str,
    *,
    id_scope: str | None = None,
    payload: Any = None,
    **options: Any,
) -> RegistrationState:
    """Register, which must end as assigned."""
    client = ProvisioningDeviceClient.create_from_symmetric_key(
        provisioning_host=instance.place.dps,
        registration_id=registration_id,
        id_scope=id_scope or instance.id_scope,
        symmetric_key=key,
        server_verification_cert=instance.ca,
        **options,
    )
    if payload is not None:
        client.provisioning_payload = payload
    start = CLOCK.monotonic()
    try:
        result = client.register()
    finally:
        print(f"register() took {CLOCK.monotonic() - start:.2f} s, 2.00 s of them the SDK's pause")
    assert result.status == "assigned"
    assert result.registration_state is not None
    return result.registration_state


def refusal(instance: Instance, registration_id: str, key: str, **options: Any) -> str:
    """Register, which must fail, and return what the SDK says about it."""
    with pytest.raises(ClientError) as caught:
        register(instance, registration_id, key, **options)
    return repr(caught.value.__cause__)


@both_transports
@both_keys
def test_an_individual_enrollment_provisions(
    instance: Instance, which: int, *, websockets: bool
) -> None:
    registration_id, device_id = unique("indi"), unique("device")
    keys = instance.dps.enroll(
        registration_id,
        deviceId=device_id,
        initialTwin={"tags": {"site": "north"}, "properties": {"desired": {"rate": 5}}},
    )
    state = register(instance, registration_id, keys[which], websockets=websockets)

    assert state.device_id == device_id
    assert state.assigned_hub in instance.place.hubs
    assert state.sub_status == "initialAssignment"
    assert state.etag
    assert state.created_date_time
    assert state.last_update_date_time

    identity = instance.hub(state.assigned_hub).must("GET", f"/devices/{device_id}")
    held = identity["authentication"]["symmetricKey"]
    assert (held["primaryKey"], held["secondaryKey"]) == keys
    twin = instance.hub(state.assigned_hub).must("GET", f"/twins/{device_id}")
    assert twin["tags"] == {"site": "north"}
    assert twin["properties"]["desired"]["rate"] == 5

    entry = instance.dps.must("GET", f"/enrollments/{registration_id}")
    assert entry["registrationState"]["status"] == "assigned"
    assert entry["registrationState"]["deviceId"] == device_id
    assert entry["registrationState"]["etag"] == state.etag


@both_transports
@both_keys
def test_a_group_provisions_with_derived_keys(
    instance: Instance, which: int, *, websockets: bool
) -> None:
    group_id, registration_id = unique("group"), unique("member")
    group_keys = instance.dps.enroll_group(
        group_id, capabilities={"iotEdge": True}, initialTwin={"tags": {"line": 7}}
    )
    key = derive(group_keys[which], registration_id)
    state = register(instance, registration_id, key, websockets=websockets)

    assert state.device_id == registration_id
    hub = instance.hub(state.assigned_hub)
    identity = hub.must("GET", f"/devices/{registration_id}")
    assert identity["capabilities"] == {"iotEdge": True}
    held = identity["authentication"]["symmetricKey"]
    derived = tuple(derive(each, registration_id) for each in group_keys)
    assert (held["primaryKey"], held["secondaryKey"]) == derived
    modules = hub.must("GET", f"/devices/{registration_id}/modules")
    assert {module["moduleId"] for module in modules} == {"$edgeAgent", "$edgeHub"}

    records = instance.dps.must("POST", f"/registrations/{group_id}/query")
    assert [record["registrationId"] for record in records] == [registration_id]
    assert records[0]["status"] == "assigned"


def test_the_id_may_be_spelled_in_any_case(instance: Instance) -> None:
    registration_id = unique("Mixed-Case.ID_9:x")
    primary, _ = instance.dps.enroll(registration_id)
    register(instance, registration_id.upper(), primary)
    record = instance.dps.must("GET", f"/registrations/{segment(registration_id)}")
    assert record["registrationId"].lower() == registration_id.lower()


@pytest.mark.parametrize("payload", [{"model": "T-800", "nested": [1, None]}, "text"])
def test_a_payload_is_accepted(instance: Instance, payload: Any) -> None:
    registration_id = unique("payload")
    primary, _ = instance.dps.enroll(registration_id)
    register(instance, registration_id, primary, payload=payload)


def test_registering_again_finds_the_same_assignment(instance: Instance) -> None:
    registration_id = unique("again")
    primary, secondary = instance.dps.enroll(registration_id)
    first = register(instance, registration_id, primary)
    second = register(instance, registration_id, secondary)
    assert second.assigned_hub == first.assigned_hub
    assert second.device_id == first.device_id
    assert second.sub_status == "initialAssignment"
    assert second.created_date_time == first.created_date_time


@both_transports
def test_a_wrong_key_is_refused(instance: Instance, *, websockets: bool) -> None:
    registration_id = unique("wrongkey")
    instance.dps.enroll(registration_id)
    told = refusal(instance, registration_id, new_key(), websockets=websockets)
    assert "401" in told
    explained = instance.cli("registration", "explain", registration_id)
    assert explained[0]["check"] == "wrong-key"


def test_the_group_key_itself_is_refused(instance: Instance) -> None:
    registration_id = unique("direct")
    group_key, _ = instance.dps.enroll_group(unique("group"))
    assert "401" in refusal(instance, registration_id, group_key)


def test_a_device_whose_clock_is_behind_is_refused(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = SimpleNamespace(time=lambda: CLOCK.time() - 7_200)
    for module in (sastoken, alarm, pipeline_stages_base):
        monkeypatch.setattr(module, "time", behind)
    registration_id = unique("expired")
    primary, _ = instance.dps.enroll(registration_id)
    assert "401" in refusal(instance, registration_id, primary)
    assert instance.explain(registration_id)[0]["check"] == "token-expired"


def test_an_unknown_registration_is_refused(instance: Instance) -> None:
    assert "401" in refusal(instance, unique("unknown"), new_key())


def test_a_wrong_id_scope_is_refused(instance: Instance) -> None:
    registration_id = unique("scope")
    primary, _ = instance.dps.enroll(registration_id)
    refusal(instance, registration_id, primary, id_scope="0ne000BAD00")


def test_a_disabled_enrollment_is_told_so(instance: Instance) -> None:
    registration_id = unique("disabled")
    primary, _ = instance.dps.enroll(registration_id, provisioningStatus="disabled")
    told = refusal(instance, registration_id, primary)
    assert "disabled" in told
    assert "200" in told
    record = instance.dps.must("GET", f"/registrations/{registration_id}")
    assert record["status"] == "disabled"
    assert record["etag"]
    assert instance.explain(registration_id)[0]["check"] == "enrollment-disabled"


def test_a_disabled_group_is_told_so(instance: Instance) -> None:
    registration_id = unique("member")
    group_key, _ = instance.dps.enroll_group(unique("group"), provisioningStatus="disabled")
    told = refusal(instance, registration_id, derive(group_key, registration_id))
    assert "disabled" in told


def test_a_static_allocation_to_no_linked_hub_fails(instance: Instance) -> None:
    registration_id = unique("nohub")
    primary, _ = instance.dps.enroll(
        registration_id, allocationPolicy="static", iotHubs=["gone.muster.localhost"]
    )
    told = refusal(instance, registration_id, primary)
    assert "failed registration status" in told
    record = instance.dps.must("GET", f"/registrations/{registration_id}")
    assert record["status"] == "failed"
    assert record["errorCode"] == 400208
    assert record["errorMessage"]
