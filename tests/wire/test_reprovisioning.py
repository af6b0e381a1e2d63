"""What registering again does, and which entry and hub decide (dps.md 4.2 to 4.9)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from support.device import http_finish, http_register, hub_login, registration_token, unique
from support.secrets import derive, new_key
from support.service import attestation

if TYPE_CHECKING:
    from support.instance import Instance

MIGRATE = {"updateHubAssignment": True, "migrateDeviceData": True}
RESET = {"updateHubAssignment": True, "migrateDeviceData": False}
NEVER = {"updateHubAssignment": False, "migrateDeviceData": False}


def register(instance: Instance, registration_id: str, key: str) -> dict[str, Any]:
    """Register and return the final registration state."""
    signed = registration_token(instance, registration_id, key)
    first = http_register(instance, registration_id, signed)
    last = http_finish(instance, registration_id, signed, first)
    assert last.status == 200
    return last.json["registrationState"]  # type: ignore[no-any-return]


def entry(registration_id: str, keys: tuple[str, str], hub: str, **fields: Any) -> dict[str, Any]:
    return {
        "registrationId": registration_id,
        "attestation": attestation(*keys),
        "allocationPolicy": "static",
        "iotHubs": [hub],
        "initialTwin": {"tags": {"site": "first"}, "properties": {"desired": {"rate": 1}}},
        **fields,
    }


def moved(
    instance: Instance, policy: dict[str, bool]
) -> tuple[str, str, dict[str, Any], dict[str, Any]]:
    """Register in the first hub, change the twin there, point the entry to the second, repeat."""
    registration_id = unique("move")
    keys = (new_key(), new_key())
    first_hub, second_hub = instance.place.hubs
    path = f"/enrollments/{registration_id}"
    body = entry(registration_id, keys, first_hub, reprovisionPolicy=policy)
    instance.dps.must("PUT", path, body)
    before = register(instance, registration_id, keys[0])
    assert before["assignedHub"] == first_hub
    assert before["substatus"] == "initialAssignment"
    change = {"tags": {"owner": "ann"}, "properties": {"desired": {"rate": 9, "own": True}}}
    instance.hub(first_hub).must("PATCH", f"/twins/{registration_id}", change)
    instance.dps.must("PUT", path, body | {"iotHubs": [second_hub]}, if_match="*")
    return registration_id, keys[0], before, register(instance, registration_id, keys[0])


def test_reprovision_and_migrate(instance: Instance) -> None:
    registration_id, _, before, after = moved(instance, MIGRATE)
    first, second = (instance.hub(host) for host in instance.place.hubs)
    assert after["assignedHub"] == instance.place.hubs[1]
    assert after["substatus"] == "deviceDataMigrated"
    assert after["createdDateTimeUtc"] == before["createdDateTimeUtc"]
    assert first.call("GET", f"/devices/{registration_id}").status == 404
    twin = second.must("GET", f"/twins/{registration_id}")
    assert twin["tags"] == {"site": "first", "owner": "ann"}
    assert twin["properties"]["desired"]["rate"] == 9
    assert twin["properties"]["desired"]["own"] is True


def test_reprovision_and_reset(instance: Instance) -> None:
    registration_id, _, _, after = moved(instance, RESET)
    first, second = (instance.hub(host) for host in instance.place.hubs)
    assert after["substatus"] == "deviceDataReset"
    assert first.call("GET", f"/devices/{registration_id}").status == 404
    twin = second.must("GET", f"/twins/{registration_id}")
    assert twin["tags"] == {"site": "first"}
    assert twin["properties"]["desired"]["rate"] == 1
    assert "own" not in twin["properties"]["desired"]


def test_never_reprovision(instance: Instance) -> None:
    registration_id, _, _, after = moved(instance, NEVER)
    first, second = (instance.hub(host) for host in instance.place.hubs)
    assert after["assignedHub"] == instance.place.hubs[0]
    assert after["substatus"] == "initialAssignment"
    twin = first.must("GET", f"/twins/{registration_id}")
    assert twin["tags"] == {"site": "first", "owner": "ann"}
    assert second.call("GET", f"/devices/{registration_id}").status == 404


def test_moving_ends_the_session_in_the_old_hub(instance: Instance) -> None:
    registration_id = unique("live")
    keys = (new_key(), new_key())
    first_hub, second_hub = instance.place.hubs
    path = f"/enrollments/{registration_id}"
    instance.dps.must("PUT", path, entry(registration_id, keys, first_hub))
    register(instance, registration_id, keys[0])
    with hub_login(instance, registration_id, keys[0], host=first_hub) as session:
        instance.dps.must("PUT", path, entry(registration_id, keys, second_hub), if_match="*")
        register(instance, registration_id, keys[0])
        session.expect_closed()
    with hub_login(instance, registration_id, keys[0], host=second_hub):
        pass


def test_the_same_hub_keeps_the_twin(instance: Instance) -> None:
    registration_id = unique("same")
    keys = (new_key(), new_key())
    hub_host = instance.place.hubs[0]
    path = f"/enrollments/{registration_id}"
    for policy in (MIGRATE, RESET):
        body = entry(registration_id, keys, hub_host, reprovisionPolicy=policy)
        instance.dps.must("PUT", path, body, if_match=None if policy is MIGRATE else "*")
        state = register(instance, registration_id, keys[0])
        assert state["substatus"] == "initialAssignment"
        hub = instance.hub(hub_host)
        hub.must("PATCH", f"/twins/{registration_id}", {"tags": {"mine": policy == MIGRATE}})
    twin = instance.hub(hub_host).must("GET", f"/twins/{registration_id}")
    assert twin["tags"] == {"site": "first", "mine": False}


def test_rolled_keys_reach_the_hub_with_the_next_registration(instance: Instance) -> None:
    registration_id = unique("roll")
    keys = instance.dps.enroll(registration_id)
    host = register(instance, registration_id, keys[0])["assignedHub"]
    rolled = (new_key(), new_key())
    body = {"registrationId": registration_id, "attestation": attestation(*rolled)}
    instance.dps.must("PUT", f"/enrollments/{registration_id}", body, if_match="*")
    path = f"/devices/{registration_id}"

    def held() -> tuple[str, str]:
        found = instance.hub(host).must("GET", path)["authentication"]["symmetricKey"]
        return found["primaryKey"], found["secondaryKey"]

    assert held() == keys
    signed = registration_token(instance, registration_id, keys[0])
    assert http_register(instance, registration_id, signed).status == 401
    register(instance, registration_id, rolled[1])
    assert held() == rolled


def test_a_changed_device_id_waits_for_a_fresh_record(instance: Instance) -> None:
    registration_id = unique("rename")
    keys = instance.dps.enroll(registration_id, deviceId=(first := unique("dev")))
    host = register(instance, registration_id, keys[0])["assignedHub"]
    second = unique("dev")
    body = {
        "registrationId": registration_id,
        "attestation": attestation(*keys),
        "deviceId": second,
    }
    instance.dps.must("PUT", f"/enrollments/{registration_id}", body, if_match="*")
    assert register(instance, registration_id, keys[0])["deviceId"] == first
    instance.dps.must("DELETE", f"/registrations/{registration_id}")
    state = register(instance, registration_id, keys[0])
    assert state["deviceId"] == second
    assert state["substatus"] == "initialAssignment"
    # The earlier identity stays: deprovisioning is another step.
    instance.hub(host).must("GET", f"/devices/{first}")


def test_an_individual_entry_beats_every_group(instance: Instance) -> None:
    registration_id = unique("both")
    group_key, _ = instance.dps.enroll_group(unique("beaten"))
    derived = derive(group_key, registration_id)
    assert register(instance, registration_id, derived)["status"] == "assigned"
    own, _ = instance.dps.enroll(registration_id, provisioningStatus="disabled")
    # Its presence alone bars the group, whatever its state.
    signed = registration_token(instance, registration_id, derived)
    assert http_register(instance, registration_id, signed).status == 401
    assert register(instance, registration_id, own)["status"] == "disabled"


def test_deleting_entries_leaves_the_hub_alone(instance: Instance) -> None:
    registration_id = unique("leave")
    key, _ = instance.dps.enroll(registration_id)
    state = register(instance, registration_id, key)
    instance.dps.must("DELETE", f"/enrollments/{registration_id}")
    instance.hub(state["assignedHub"]).must("GET", f"/devices/{registration_id}")
    signed = registration_token(instance, registration_id, key)
    assert http_register(instance, registration_id, signed).status == 401


def test_hashed_allocation_is_stable_and_spreads(instance: Instance) -> None:
    group_key, _ = instance.dps.enroll_group(unique("spread"))
    assigned: dict[str, str] = {}
    for _ in range(24):
        registration_id = unique("spread")
        key = derive(group_key, registration_id)
        assigned[registration_id] = register(instance, registration_id, key)["assignedHub"]
    assert set(assigned.values()) == set(instance.place.hubs)
    for registration_id, host in list(assigned.items())[:5]:
        instance.dps.must("DELETE", f"/registrations/{registration_id}")
        key = derive(group_key, registration_id)
        assert register(instance, registration_id, key)["assignedHub"] == host


def test_revoking_a_device_and_taking_it_back(instance: Instance) -> None:
    registration_id = unique("revoke")
    key, _ = instance.dps.enroll(registration_id)
    state = register(instance, registration_id, key)
    host = state["assignedHub"]
    with hub_login(instance, registration_id, key, host=host) as session:
        instance.cli("device", "revoke", registration_id, "--reason", "stolen", "--yes")
        session.expect_closed()
    assert register(instance, registration_id, key)["status"] == "disabled"
    identity = instance.hub(host).must("GET", f"/devices/{registration_id}")
    assert identity["status"] == "disabled"
    instance.cli("device", "restore", registration_id)
    assert register(instance, registration_id, key)["status"] == "assigned"
    with hub_login(instance, registration_id, key, host=host):
        pass


def test_why_a_revoked_device_of_a_group_is_out(instance: Instance) -> None:
    group_id, registration_id = unique("revoke-group"), unique("revoke-member")
    group_key, _ = instance.dps.enroll_group(group_id)
    key = derive(group_key, registration_id)
    assert register(instance, registration_id, key)["status"] == "assigned"
    instance.cli("device", "revoke", registration_id, "--yes")
    signed = registration_token(instance, registration_id, key)
    refused = http_register(instance, registration_id, signed)
    assert refused.status == 401
    (row,) = instance.explain(refused.json["trackingId"])
    assert row["check"] == "barred-by-individual-enrollment"
    assert row["facts"]["group"] == group_id
    assert "disabled" in row["cause"]
    assert f"muster device restore {registration_id}" in row["remedy"]
    instance.cli("device", "restore", registration_id)
    assert register(instance, registration_id, key)["status"] == "assigned"


def test_a_key_that_was_right_once_is_not_called_unknown(instance: Instance) -> None:
    group_id, registration_id = unique("rolled"), unique("member")
    group_key, _ = instance.dps.enroll_group(group_id)
    assert register(instance, registration_id, derive(group_key, registration_id))
    signed = registration_token(instance, registration_id, derive(new_key(), registration_id))
    refused = http_register(instance, registration_id, signed)
    (row,) = instance.explain(refused.json["trackingId"])
    assert row["check"] == "wrong-key"
    assert row["facts"]["registered_through"] == group_id


def test_a_twin_that_no_hub_takes_is_named(instance: Instance) -> None:
    registration_id = unique("bad-twin")
    key, _ = instance.dps.enroll(registration_id, initialTwin={"tags": {"a.b": 1}})
    assert register(instance, registration_id, key)["status"] == "failed"
    (row,) = instance.explain(registration_id)
    assert row["check"] == "invalid-identity"
    assert "'a.b'" in row["cause"]
    assert registration_id in row["remedy"]
