"""Every operation of `azure-iot-deviceprovisioning` (api-version 2021-10-01)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.iot.deviceprovisioning import DeviceProvisioningClient

from support.device import http_finish, http_register, registration_token, unique
from support.secrets import derive, new_key, token
from support.service import attestation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.instance import Instance

EVERYTHING = {"query": "SELECT *"}


@pytest.fixture
def client(instance: Instance) -> Iterator[DeviceProvisioningClient]:
    with DeviceProvisioningClient.from_connection_string(
        instance.dps_connection_string, connection_verify=str(instance.ca_file)
    ) as made:
        yield made


def entry(registration_id: str, **fields: Any) -> dict[str, Any]:
    mechanism = {"type": "symmetricKey", "symmetricKey": {}}
    return {"registrationId": registration_id, "attestation": mechanism, **fields}


def group(group_id: str, **fields: Any) -> dict[str, Any]:
    mechanism = {"type": "symmetricKey", "symmetricKey": {}}
    return {"enrollmentGroupId": group_id, "attestation": mechanism, **fields}


def status_of(error: pytest.ExceptionInfo[HttpResponseError]) -> int | None:
    return error.value.status_code


def test_an_individual_enrollment_with_every_field(
    instance: Instance, client: DeviceProvisioningClient
) -> None:
    registration_id = unique("new.indi:1")
    keys = (new_key(), new_key())
    sent = {
        "registrationId": registration_id,
        "deviceId": "my-device",
        "attestation": attestation(*keys),
        "capabilities": {"iotEdge": True},
        "optionalDeviceInformation": {"floor": 3},
        "initialTwin": {
            "tags": {"site": {"name": "north"}},
            "properties": {"desired": {"rate": 5, "list": [1, {"a": None}]}},
        },
        "provisioningStatus": "enabled",
        "reprovisionPolicy": {"updateHubAssignment": False, "migrateDeviceData": False},
        "allocationPolicy": "static",
        "iotHubs": [instance.place.hubs[1]],
    }
    created = client.enrollment.create_or_update(registration_id, sent)
    for name, value in sent.items():
        assert created[name] == value, name
    assert created["etag"]

    read = client.enrollment.get(registration_id)
    hidden = dict(read)
    assert hidden.pop("attestation")["type"] == "symmetricKey"
    assert keys[0] not in str(read)
    assert keys[1] not in str(read)
    for name, value in sent.items():
        if name != "attestation":
            assert hidden[name] == value, name
    assert read["registrationState"]["status"] == "unassigned"
    assert read["createdDateTimeUtc"].endswith("Z")
    assert read["lastUpdatedDateTimeUtc"].endswith("Z")

    assert client.enrollment.get_attestation_mechanism(registration_id) == attestation(*keys)
    client.enrollment.delete(registration_id)


def test_etags_decide(client: DeviceProvisioningClient) -> None:
    registration_id = unique("new-etag")
    first = client.enrollment.create_or_update(registration_id, entry(registration_id))
    with pytest.raises(ResourceExistsError):
        client.enrollment.create_or_update(registration_id, entry(registration_id))
    second = client.enrollment.create_or_update(
        registration_id, entry(registration_id, deviceId="d2"), if_match=first["etag"]
    )
    assert second["etag"] != first["etag"]
    with pytest.raises(HttpResponseError) as caught:
        client.enrollment.create_or_update(
            registration_id, entry(registration_id), if_match=first["etag"]
        )
    assert status_of(caught) == 412
    third = client.enrollment.create_or_update(
        registration_id, entry(registration_id), if_match="*"
    )
    # Keys that an update leaves out stay as they were.
    assert third["attestation"] == first["attestation"]
    with pytest.raises(HttpResponseError) as caught:
        client.enrollment.delete(registration_id, if_match=second["etag"])
    assert status_of(caught) == 412
    quoted = f'"{third["etag"]}"'
    client.enrollment.delete(registration_id, if_match=quoted)
    with pytest.raises(ResourceNotFoundError):
        client.enrollment.get(registration_id)
    with pytest.raises(ResourceNotFoundError):
        client.enrollment.delete(registration_id)
    with pytest.raises(ResourceNotFoundError):
        client.enrollment.get_attestation_mechanism(registration_id)
    with pytest.raises(ResourceNotFoundError):
        client.enrollment.create_or_update(registration_id, entry(registration_id), if_match="*")


def test_groups_have_the_same_life(client: DeviceProvisioningClient) -> None:
    group_id = unique("new-group")
    operations = client.enrollment_group
    first = operations.create_or_update(group_id, group(group_id, capabilities={"iotEdge": True}))
    keys = first["attestation"]["symmetricKey"]
    assert keys["primaryKey"]
    assert keys["secondaryKey"]
    assert operations.get(group_id)["capabilities"] == {"iotEdge": True}
    assert operations.get_attestation_mechanism(group_id)["symmetricKey"] == keys
    with pytest.raises(ResourceExistsError):
        operations.create_or_update(group_id, group(group_id))
    second = operations.create_or_update(group_id, group(group_id), if_match="*")
    with pytest.raises(HttpResponseError) as caught:
        operations.create_or_update(group_id, group(group_id), if_match=first["etag"])
    assert status_of(caught) == 412
    with pytest.raises(HttpResponseError) as caught:
        operations.delete(group_id, if_match=first["etag"])
    assert status_of(caught) == 412
    operations.delete(group_id, if_match=second["etag"])
    with pytest.raises(ResourceNotFoundError):
        operations.get(group_id)


def test_ids_are_one_whatever_their_case(client: DeviceProvisioningClient) -> None:
    registration_id = unique("New-Case")
    client.enrollment.create_or_update(registration_id, entry(registration_id))
    read = client.enrollment.get(registration_id.upper())
    assert read["registrationId"] == registration_id
    with pytest.raises(ResourceExistsError):
        client.enrollment.create_or_update(registration_id.lower(), entry(registration_id.lower()))


def test_bulk_operations(client: DeviceProvisioningClient) -> None:
    ids = [unique("new-bulk") for _ in range(10)]
    bulk = {"mode": "create", "enrollments": [entry(each) for each in ids]}
    assert client.enrollment.run_bulk_operation(bulk)["isSuccessful"] is True
    again = client.enrollment.run_bulk_operation(bulk)
    assert again["isSuccessful"] is False
    assert {error["registrationId"] for error in again["errors"]} == set(ids)
    assert {error["errorCode"] // 1000 for error in again["errors"]} == {409}
    eleven = {"mode": "create", "enrollments": [entry(unique("new-bulk")) for _ in range(11)]}
    with pytest.raises(HttpResponseError) as caught:
        client.enrollment.run_bulk_operation(eleven)
    assert status_of(caught) == 400
    stored: list[dict[str, Any]] = []
    for mode in ("update", "updateIfMatchETag", "delete"):
        stored = [dict(client.enrollment.get(each)) for each in ids]
        done = client.enrollment.run_bulk_operation({"mode": mode, "enrollments": stored})
        assert done["isSuccessful"] is True, done
    missing = client.enrollment.run_bulk_operation({"mode": "delete", "enrollments": stored[:1]})
    assert missing["errors"][0]["errorCode"] // 1000 == 404


def test_bulk_operations_on_groups(client: DeviceProvisioningClient) -> None:
    ids = [unique("new-bulk-group") for _ in range(2)]
    entries = [group(each) for each in ids]
    operations = client.enrollment_group
    done = operations.run_bulk_operation({"mode": "create", "enrollmentGroups": entries})
    assert done["isSuccessful"] is True, done
    again = operations.run_bulk_operation({"mode": "create", "enrollmentGroups": entries})
    assert {error["enrollmentGroupId"] for error in again["errors"]} == set(ids)
    done = operations.run_bulk_operation({"mode": "delete", "enrollmentGroups": entries})
    assert done["isSuccessful"] is True


def test_queries_page_to_the_end(client: DeviceProvisioningClient) -> None:
    ids = [unique("new-query") for _ in range(5)]
    for each in ids:
        client.enrollment.create_or_update(each, entry(each))
        client.enrollment_group.create_or_update(each, group(each))
    found = [item["registrationId"] for item in client.enrollment.query(EVERYTHING, top=7)]
    assert set(ids) <= set(found)
    assert len(found) == len(set(found))
    found = [item["enrollmentGroupId"] for item in client.enrollment_group.query(EVERYTHING, top=7)]
    assert set(ids) <= set(found)
    for each in ids:
        client.enrollment_group.delete(each)


def test_registration_states(instance: Instance, client: DeviceProvisioningClient) -> None:
    group_id, registration_id = unique("new-states"), unique("new-state")
    group_key, _ = instance.dps.enroll_group(group_id)
    assert list(client.device_registration_state.query(group_id)) == []
    signed = registration_token(instance, registration_id, derive(group_key, registration_id))
    first = http_register(instance, registration_id, signed)
    last = http_finish(instance, registration_id, signed, first)
    states = client.device_registration_state
    (listed,) = states.query(group_id)
    read = states.get(registration_id)
    assert listed == read
    assert read["status"] == "assigned"
    assert read["etag"] == last.json["registrationState"]["etag"]
    with pytest.raises(HttpResponseError) as caught:
        states.delete(registration_id, if_match="AAAAAAAAAAA=")
    assert status_of(caught) == 412
    states.delete(registration_id, if_match=read["etag"])
    with pytest.raises(ResourceNotFoundError):
        states.get(registration_id)


@pytest.mark.parametrize(
    "change",
    [
        {"attestation": {"type": "symmetricKey", "symmetricKey": {"primaryKey": "not base64!"}}},
        {"attestation": {"type": "tpm", "tpm": {"endorsementKey": "AAAA"}}},
        {"attestation": {"type": "x509", "x509": {"clientCertificates": {}}}},
        {"attestation": None},
        {"allocationPolicy": "nearest"},
        {"provisioningStatus": "perhaps"},
        {"registrationId": "another-id"},
    ],
    ids="-".join,
)
def test_what_makes_no_sense_is_a_bad_request(
    client: DeviceProvisioningClient, change: dict[str, Any]
) -> None:
    registration_id = unique("new-bad")
    with pytest.raises(HttpResponseError) as caught:
        client.enrollment.create_or_update(registration_id, entry(registration_id) | change)
    assert status_of(caught) == 400
    assert caught.value.response is not None
    body = json.loads(caught.value.response.text())
    assert body["errorCode"] // 1000 == 400
    assert body["trackingId"]
    assert body["message"]


def test_a_sas_of_ones_own_works(instance: Instance) -> None:
    registration_id = unique("new-sas")
    instance.dps.enroll(registration_id)
    key_name, key = instance.dps.key_name, instance.dps.key
    signed = token(instance.place.dps, key, key_name=key_name)
    with DeviceProvisioningClient(
        instance.place.dps, AzureSasCredential(signed), connection_verify=str(instance.ca_file)
    ) as client:
        assert client.enrollment.get(registration_id)["registrationId"] == registration_id


@pytest.mark.parametrize("name", ["provisioningserviceowner", "nobody"])
def test_a_wrong_key_or_policy_is_unauthorized(instance: Instance, name: str) -> None:
    with (
        DeviceProvisioningClient(
            instance.place.dps,
            AzureNamedKeyCredential(name, new_key()),
            connection_verify=str(instance.ca_file),
        ) as client,
        pytest.raises(ClientAuthenticationError),
    ):
        client.enrollment.get("any")
