"""Every operation of `azure-iothub-provisioningserviceclient` (api-version 2018-09-01-preview)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from provisioningserviceclient import (
    BULKOP_CREATE,
    BULKOP_DELETE,
    BULKOP_UPDATE,
    BULKOP_UPDATE_IF_MATCH_ETAG,
    BulkEnrollmentOperation,
    ProvisioningServiceClient,
    ProvisioningServiceError,
    QuerySpecification,
)
from provisioningserviceclient.models import (
    AttestationMechanism,
    DeviceCapabilities,
    EnrollmentGroup,
    IndividualEnrollment,
    InitialTwin,
    ReprovisionPolicy,
)
from provisioningserviceclient.protocol.models import SymmetricKeyAttestation

from support.device import http_finish, http_register, registration_token, unique
from support.secrets import derive, new_key

if TYPE_CHECKING:
    from support.instance import Instance


@pytest.fixture
def client(instance: Instance) -> ProvisioningServiceClient:
    return ProvisioningServiceClient.create_from_connection_string(instance.dps_connection_string)


def symmetric_key(primary: str | None = None, secondary: str | None = None) -> Any:
    keys = SymmetricKeyAttestation(primary_key=primary, secondary_key=secondary)
    return AttestationMechanism(type="symmetricKey", symmetric_key=keys)


def individual(registration_id: str, **fields: Any) -> IndividualEnrollment:
    return IndividualEnrollment.create(registration_id, symmetric_key(), **fields)


def test_an_individual_enrollment_from_creation_to_deletion(
    client: ProvisioningServiceClient,
) -> None:
    registration_id = unique("old-indi")
    primary, secondary = new_key(), new_key()
    created = client.create_or_update(
        IndividualEnrollment.create(
            registration_id,
            symmetric_key(primary, secondary),
            device_id="other-name",
            initial_twin=InitialTwin.create(tags={"t": 1}, desired_properties={"d": {"e": True}}),
            device_capabilities=DeviceCapabilities.create(iot_edge=True),
            reprovision_policy=ReprovisionPolicy(
                update_hub_assignment=True, migrate_device_data=False
            ),
            allocation_policy="hashed",
        )
    )
    assert created.registration_id == registration_id
    assert created.attestation.symmetric_key.primary_key == primary
    assert created.etag

    read = client.get_individual_enrollment(registration_id)
    assert read.device_id == "other-name"
    assert read.provisioning_status == "enabled"
    assert read.capabilities.iot_edge is True
    assert read.initial_twin.tags == {"t": 1}
    assert read.initial_twin.desired_properties == {"d": {"e": True}}
    assert read.reprovision_policy.migrate_device_data is False
    assert read.allocation_policy == "hashed"
    assert read.created_date_time_utc
    assert read.last_updated_date_time_utc
    assert read.attestation.type == "symmetricKey"
    assert read.attestation.symmetric_key is None or not (
        read.attestation.symmetric_key.primary_key
    )

    shown = client.get_individual_enrollment_attestation_mechanism(registration_id)
    assert shown.symmetric_key.primary_key == primary
    assert shown.symmetric_key.secondary_key == secondary

    read.provisioning_status = "disabled"
    updated = client.create_or_update(read)
    assert updated.etag != read.etag
    assert client.get_individual_enrollment(registration_id).provisioning_status == "disabled"
    kept = client.get_individual_enrollment_attestation_mechanism(registration_id)
    assert kept.symmetric_key.primary_key == primary

    with pytest.raises(ProvisioningServiceError, match="412"):
        client.create_or_update(read)
    with pytest.raises(ProvisioningServiceError, match="412"):
        client.delete(read)
    client.delete(client.get_individual_enrollment(registration_id))
    with pytest.raises(ProvisioningServiceError, match="404"):
        client.get_individual_enrollment(registration_id)


def test_keys_are_made_when_none_are_given(client: ProvisioningServiceClient) -> None:
    registration_id = unique("old-made")
    made = client.create_or_update(individual(registration_id)).attestation.symmetric_key
    assert made.primary_key
    assert made.secondary_key
    assert made.primary_key != made.secondary_key
    client.delete_individual_enrollment_by_param(registration_id)


def test_creating_what_exists_is_a_conflict(client: ProvisioningServiceClient) -> None:
    registration_id = unique("old-twice")
    client.create_or_update(individual(registration_id))
    with pytest.raises(ProvisioningServiceError, match="409"):
        client.create_or_update(individual(registration_id))


def test_a_group_from_creation_to_deletion(client: ProvisioningServiceClient) -> None:
    group_id = unique("old-group")
    created = client.create_or_update(
        EnrollmentGroup.create(group_id, symmetric_key(), initial_twin=InitialTwin({"t": 2}, {}))
    )
    assert created.attestation.symmetric_key.primary_key
    read = client.get_enrollment_group(group_id)
    assert read.initial_twin.tags == {"t": 2}
    shown = client.get_enrollment_group_attestation_mechanism(group_id)
    assert shown.symmetric_key.primary_key == created.attestation.symmetric_key.primary_key
    read.initial_twin.tags = {"t": 3}
    client.create_or_update(read)
    assert client.get_enrollment_group(group_id).initial_twin.tags == {"t": 3}
    with pytest.raises(ProvisioningServiceError, match="409"):
        client.create_or_update(EnrollmentGroup.create(group_id, symmetric_key()))
    with pytest.raises(ProvisioningServiceError, match="412"):
        client.delete_enrollment_group_by_param(group_id, "AAAAAAAAAAA=")
    client.delete_enrollment_group_by_param(group_id)
    with pytest.raises(ProvisioningServiceError, match="404"):
        client.get_enrollment_group(group_id)


def test_bulk_operations_tell_each_failure(client: ProvisioningServiceClient) -> None:
    ids = [unique("old-bulk") for _ in range(3)]
    entries = [individual(each) for each in ids]
    created = client.run_bulk_operation(BulkEnrollmentOperation(BULKOP_CREATE, entries))
    assert created.is_successful is True
    assert not created.errors

    again = client.run_bulk_operation(
        BulkEnrollmentOperation(BULKOP_CREATE, [entries[0], individual(new := unique("old-bulk"))])
    )
    assert again.is_successful is False
    (error,) = again.errors
    assert error.registration_id == ids[0]
    assert error.error_code // 1000 == 409
    assert error.error_status
    assert client.get_individual_enrollment(new).registration_id == new

    stored = [client.get_individual_enrollment(each) for each in ids]
    for each in stored:
        each.provisioning_status = "disabled"
    assert client.run_bulk_operation(BulkEnrollmentOperation(BULKOP_UPDATE, stored)).is_successful
    stale = client.run_bulk_operation(
        BulkEnrollmentOperation(BULKOP_UPDATE_IF_MATCH_ETAG, [stored[0]])
    )
    assert stale.is_successful is False
    assert stale.errors[0].error_code // 1000 == 412
    fresh = client.get_individual_enrollment(ids[0])
    assert client.run_bulk_operation(
        BulkEnrollmentOperation(BULKOP_UPDATE_IF_MATCH_ETAG, [fresh])
    ).is_successful

    every = [individual(each) for each in [*ids, new]]
    assert client.run_bulk_operation(BulkEnrollmentOperation(BULKOP_DELETE, every)).is_successful
    gone = client.run_bulk_operation(BulkEnrollmentOperation(BULKOP_DELETE, every[:1]))
    assert gone.is_successful is False
    assert gone.errors[0].error_code // 1000 == 404


def test_queries_page_to_the_end(client: ProvisioningServiceClient) -> None:
    ids = {unique("old-query") for _ in range(5)}
    for each in ids:
        client.create_or_update(individual(each))
    query = client.create_individual_enrollment_query(QuerySpecification("SELECT *"), 2)
    seen: list[str] = []
    for page in query:
        assert 0 < len(page) <= 2
        seen.extend(item.registration_id for item in page)
    assert ids <= set(seen)
    assert len(seen) == len(set(seen))

    groups = {unique("old-query") for _ in range(3)}
    for each in groups:
        client.create_or_update(EnrollmentGroup.create(each, symmetric_key()))
    query = client.create_enrollment_group_query(QuerySpecification("SELECT *"), 2)
    found = [item.enrollment_group_id for page in query for item in page]
    assert groups <= set(found)


def test_registration_states_are_read_listed_and_deleted(
    instance: Instance, client: ProvisioningServiceClient
) -> None:
    group_id = unique("old-states")
    group_key, _ = instance.dps.enroll_group(group_id)
    ids = {unique("old-state") for _ in range(3)}
    for each in ids:
        token = registration_token(instance, each, derive(group_key, each))
        assert (
            http_finish(instance, each, token, http_register(instance, each, token)).status == 200
        )
    # The client's own `create_registration_state_query` cannot call this (it passes two arguments
    # too many), so its generated layer is used as it would.
    states = client._runtime_client.query_device_registration_states(group_id)
    assert {state.registration_id for state in states} == ids

    first = next(iter(ids))
    state = client.get_registration_state(first)
    assert state.status == "assigned"
    assert state.device_id == first
    assert state.assigned_hub in instance.place.hubs
    assert state.etag
    with pytest.raises(ProvisioningServiceError, match="412"):
        client.delete_registration_state_by_param(first, "AAAAAAAAAAA=")
    client.delete(state)
    with pytest.raises(ProvisioningServiceError, match="404"):
        client.get_registration_state(first)
    client.delete_registration_state_by_param((ids - {first}).pop())


def test_a_wrong_policy_key_is_unauthorized(instance: Instance) -> None:
    stranger = ProvisioningServiceClient(instance.place.dps, "provisioningserviceowner", new_key())
    with pytest.raises(ProvisioningServiceError, match="401"):
        stranger.get_individual_enrollment("any")
