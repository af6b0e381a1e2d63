"""The provisioning service's own REST surface as the CLI, Node and C# clients call it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from support.device import http_finish, http_register, registration_token, unique
from support.secrets import derive, new_key, raw_token, token
from support.service import Service, attestation, segment

if TYPE_CHECKING:
    from support.https import Reply
    from support.instance import Instance


@pytest.fixture
def dps(instance: Instance) -> Service:
    return instance.dps


def is_error(reply: Reply, status: int) -> None:
    """Check the error shape of dps.md 1.6."""
    assert reply.status == status, reply.body
    assert reply.json["errorCode"] // 1000 == status
    assert reply.json["trackingId"] == reply.headers["x-ms-request-id"]
    assert reply.json["message"]
    assert reply.json["timestampUtc"].endswith("Z")


def cli_individual(registration_id: str) -> dict[str, Any]:
    """What `az iot dps enrollment create` sends (dps.md 3.2)."""
    return {
        "registrationId": registration_id,
        "attestation": {"type": "symmetricKey", "symmetricKey": {}},
        "capabilities": {"iotEdge": True},
        "initialTwin": {"tags": {}, "properties": {"desired": {}}},
        "optionalDeviceInformation": {},
        "reprovisionPolicy": {"updateHubAssignment": True, "migrateDeviceData": True},
    }


def cli_group(group_id: str) -> dict[str, Any]:
    body = cli_individual("")
    del body["registrationId"], body["optionalDeviceInformation"]
    return {"enrollmentGroupId": group_id, **body}


def test_the_cli_creates_updates_and_deletes(dps: Service) -> None:
    registration_id = unique("cli")
    path = f"/enrollments/{registration_id}"
    created = dps.call("PUT", path, cli_individual(registration_id))
    assert created.status == 200
    keys = created.json["attestation"]["symmetricKey"]
    assert keys["primaryKey"] != keys["secondaryKey"]

    shown = dps.call("GET", path).json
    assert shown["attestation"]["type"] == "symmetricKey"
    assert keys["primaryKey"] not in str(shown)
    mechanism = dps.call("POST", f"{path}/attestationmechanism")
    assert mechanism.status == 200
    assert mechanism.json["symmetricKey"] == keys

    # An update echoes what was read, with the attestation fetched apart, and a star.
    body = shown | {"attestation": mechanism.json, "provisioningStatus": "disabled"}
    updated = dps.call("PUT", path, body, if_match="*")
    assert updated.status == 200
    assert updated.json["provisioningStatus"] == "disabled"
    assert updated.json["attestation"]["symmetricKey"] == keys
    assert updated.json["createdDateTimeUtc"] == shown["createdDateTimeUtc"]

    is_error(dps.call("PUT", path, cli_individual(registration_id)), 409)
    is_error(dps.call("PUT", path, body, if_match=shown["etag"]), 412)
    is_error(dps.call("DELETE", path, if_match=shown["etag"]), 412)
    deleted = dps.call("DELETE", path, if_match="*")
    assert (deleted.status, deleted.body) == (204, b"")
    is_error(dps.call("GET", path), 404)
    is_error(dps.call("DELETE", path, if_match="*"), 404)
    is_error(dps.call("PUT", path, body, if_match="*"), 404)


def test_the_cli_creates_groups(dps: Service) -> None:
    group_id = unique("cli-group")
    path = f"/enrollmentGroups/{group_id}"
    created = dps.must("PUT", path, cli_group(group_id))
    assert created["attestation"]["symmetricKey"]["primaryKey"]
    assert dps.must("GET", path)["capabilities"] == {"iotEdge": True}
    assert dps.call("DELETE", path, if_match="*").status == 204


@pytest.mark.parametrize("form", ["{}", '"{}"', 'W/"{}"'])
def test_etags_may_be_written_in_every_way(dps: Service, form: str) -> None:
    registration_id = unique("etag")
    path = f"/enrollments/{registration_id}"
    etag = dps.must("PUT", path, cli_individual(registration_id))["etag"]
    written = dps.call("PUT", path, cli_individual(registration_id), if_match=form.format(etag))
    assert written.status == 200
    assert dps.call("DELETE", path, if_match=form.format(written.json["etag"])).status == 204


def test_an_update_of_whatever_is_there_loses_no_race(dps: Service) -> None:
    registration_id = unique("raced")
    path = f"/enrollments/{registration_id}"
    body = cli_individual(registration_id)

    def at_once(if_match: str | None) -> list[int]:
        with ThreadPoolExecutor(30) as pool:
            calls = [pool.submit(dps.call, "PUT", path, body, if_match=if_match) for _ in range(30)]
        return sorted(call.result().status for call in calls)

    assert at_once(None) == [200] + [409] * 29
    etag = dps.call("GET", path).json["etag"]
    assert at_once("*") == [200] * 30
    assert at_once(etag) == [412] * 30
    assert at_once(dps.call("GET", path).json["etag"]) == [200] + [412] * 29


def test_keys_left_out_of_an_update_are_kept(dps: Service) -> None:
    registration_id = unique("keep")
    path = f"/enrollments/{registration_id}"
    keys = dps.enroll(registration_id)
    for mechanism in (
        {"type": "symmetricKey"},
        {"type": "symmetricKey", "symmetricKey": {}},
        {"type": "symmetricKey", "symmetricKey": {"primaryKey": "", "secondaryKey": None}},
    ):
        body = cli_individual(registration_id) | {"attestation": mechanism}
        dps.must("PUT", path, body, if_match="*")
        shown = dps.must("POST", f"{path}/attestationmechanism")
        assert shown == attestation(*keys)


def test_node_spells_addresses_its_way(dps: Service) -> None:
    group_id, registration_id = unique("node-group"), unique("mac:aa")
    created = dps.call("PUT", f"/enrollmentgroups/{group_id}", cli_group(group_id))
    assert created.status == 200
    assert dps.call("POST", f"/enrollmentgroups/{group_id}/attestationmechanism").status == 200
    assert dps.call("POST", "/enrollmentgroups/query", {"query": "SELECT *"}).status == 200
    bulk = {"mode": "create", "enrollments": [cli_individual(registration_id)]}
    assert dps.call("POST", "/enrollments/", bulk).json["isSuccessful"] is True
    assert dps.call("GET", f"/ENROLLMENTS/{segment(registration_id)}/").status == 200
    assert dps.call("DELETE", f"/enrollmentgroups/{group_id}").status == 204


def test_queries_have_the_headers_that_c_sharp_insists_on(dps: Service) -> None:
    for _ in range(3):
        dps.enroll(unique("paged"))
    headers = {"x-ms-max-item-count": "2", "Cache-Control": "no-cache, must-revalidate"}
    seen: list[str] = []
    while True:
        page = dps.call("POST", "/enrollments/query", {"query": "SELECT *"}, headers=headers)
        assert page.status == 200
        assert page.headers["x-ms-item-type"].lower() == "enrollment"
        assert len(page.json) <= 2
        assert page.headers["x-ms-max-item-count"] == "2"
        seen.extend(item["registrationId"] for item in page.json)
        if (continuation := page.headers["x-ms-continuation"]) is None:
            break
        assert continuation
        headers["x-ms-continuation"] = continuation
    assert len(seen) == len(set(seen)) >= 3

    group_id = unique("empty")
    dps.enroll_group(group_id)
    groups = dps.call("POST", "/enrollmentGroups/query", {"query": "SELECT *"})
    assert groups.headers["x-ms-item-type"].lower() == "enrollmentgroup"
    states = dps.call("POST", f"/registrations/{group_id}/query", {"query": "SELECT *"})
    assert states.json == []
    assert states.headers["x-ms-item-type"].lower() == "deviceregistration"
    assert states.headers["x-ms-continuation"] is None


@pytest.mark.parametrize("query", ["SELECT *", "select * from enrollments", "  Select  *  "])
def test_queries_are_written_in_many_ways(dps: Service, query: str) -> None:
    headers = {"x-ms-max-item-count": "1"}
    reply = dps.call("POST", "/enrollments/query", {"query": query}, headers=headers)
    assert reply.status == 200


@pytest.mark.parametrize(
    "body", [{"query": "DROP TABLE enrollments"}, {}, {"query": 5}, b"{", b"[1]"], ids=repr
)
def test_bad_queries(dps: Service, body: Any) -> None:
    is_error(dps.call("POST", "/enrollments/query", body), 400)


def test_a_continuation_of_ones_own_making_is_refused(dps: Service) -> None:
    headers = {"x-ms-continuation": "made up"}
    reply = dps.call("POST", "/enrollments/query", {"query": "SELECT *"}, headers=headers)
    is_error(reply, 400)


def test_twin_collections_are_stored_as_given(dps: Service) -> None:
    registration_id = unique("twin")
    twin = {
        "tags": {"version": 1, "count": 2, "metadata": {"a": 1}, "additional_properties": {}},
        "properties": {"desired": {"version": 7, "list": [1, {"b": None}]}},
    }
    dps.enroll(registration_id, initialTwin=twin)
    assert dps.must("GET", f"/enrollments/{registration_id}")["initialTwin"] == twin


@pytest.mark.parametrize("policy", ["hashed", "Hashed", "static", "STATIC"])
def test_policies_in_any_case(dps: Service, instance: Instance, policy: str) -> None:
    dps.enroll(unique("policy"), allocationPolicy=policy, iotHubs=[instance.place.hubs[0]])


def test_bulk_modes_and_limits(dps: Service) -> None:
    entries = [cli_individual(unique("bulk")) for _ in range(10)]
    done = dps.must("POST", "/enrollments", {"mode": "create", "enrollments": entries})
    assert done["isSuccessful"] is True
    assert done["errors"] in ([], None)
    eleven = [*entries, cli_individual(unique("bulk"))]
    is_error(dps.call("POST", "/enrollments", {"mode": "delete", "enrollments": eleven}), 400)
    is_error(dps.call("POST", "/enrollments", {"mode": "upsert", "enrollments": entries}), 400)
    missing = cli_individual(unique("bulk"))
    mixed = dps.call(
        "POST", "/enrollments", {"mode": "update", "enrollments": [missing, entries[0]]}
    )
    assert mixed.status == 200
    assert mixed.json["isSuccessful"] is False
    (error,) = mixed.json["errors"]
    assert error["registrationId"] == missing["registrationId"]
    assert error["errorCode"] // 1000 == 404
    assert isinstance(error["errorStatus"], str)
    done = dps.must("POST", "/enrollments", {"mode": "delete", "enrollments": entries})
    assert done["isSuccessful"] is True


def test_registration_records(dps: Service, instance: Instance) -> None:
    group_id, registration_id = unique("records"), unique("record")
    group_key, _ = dps.enroll_group(group_id)
    signed = registration_token(instance, registration_id, derive(group_key, registration_id))
    first = http_register(instance, registration_id, signed)
    seen_by_device = http_finish(instance, registration_id, signed, first).json
    path = f"/registrations/{registration_id}"
    record = dps.must("GET", path)
    for name in ("etag", "status", "deviceId", "assignedHub", "createdDateTimeUtc"):
        assert record[name] == seen_by_device["registrationState"][name], name
    # The CLI sends no body at all.
    assert dps.must("POST", f"/registrations/{group_id}/query") == [record]
    # The group goes, its records stay (dps.md 4.6).
    dps.must("DELETE", f"/enrollmentGroups/{group_id}")
    assert dps.must("GET", path) == record
    is_error(dps.call("DELETE", path, if_match="AAAA"), 412)
    assert dps.call("DELETE", path, if_match=record["etag"]).status == 204
    is_error(dps.call("GET", path), 404)
    is_error(dps.call("DELETE", path), 404)


# Who may call.


def test_tokens_of_service_clients(instance: Instance, subtests: pytest.Subtests) -> None:
    dps = instance.dps
    host, key, name = dps.host_name, dps.key, dps.key_name
    good = {
        "plain": raw_token(host, key, key_name=name),
        "with a port": token(f"{dps.host}:443", key, key_name=name),
        "port in the clear": raw_token(f"{dps.host}:443", key, key_name=name),
        "in capitals": token(host.upper(), key, key_name=name),
        "a part of the service": token(f"{host}/enrollments", key, key_name=name),
    }
    bad = {
        "token-expired": token(host, key, ttl_s=-3600, key_name=name),
        "wrong-audience": token("elsewhere.example", key, key_name=name),
        "wrong-policy-key": token(host, new_key(), key_name=name),
        "unknown-policy": token(host, key, key_name="nobody"),
        "policy-missing": token(host, key),
        "token-malformed": "Bearer nothing",
    }
    query = {"query": "SELECT *"}
    for case, authorization in (good | bad).items():
        with subtests.test(msg=case):
            headers = {"x-ms-max-item-count": "1"}
            reply = dps.call(
                "POST", "/enrollments/query", query, authorization=authorization, headers=headers
            )
            if case in good:
                assert reply.status == 200, reply.body
            else:
                is_error(reply, 401)
                assert reply.json["message"] == "Unauthorized"
                (row,) = instance.explain(reply.json["trackingId"])
                assert row["check"] == case
                assert "(not recorded)" not in row["cause"] + row["remedy"]


def test_no_token_at_all(instance: Instance) -> None:
    reply = instance.dps.call("GET", "/enrollments/x", headers={"Authorization": ""})
    is_error(reply, 401)
    (row,) = instance.explain(reply.json["trackingId"])
    assert row["check"] == "authorization-missing"
    assert "device" not in row["remedy"]


def test_rights_bind(instance: Instance, subtests: pytest.Subtests) -> None:
    owner = instance.dps
    registration_id = unique("rights")
    owner.enroll(registration_id)
    calls = {
        "EnrollmentRead": ("GET", f"/enrollments/{registration_id}", None),
        "EnrollmentWrite": ("DELETE", f"/enrollments/{unique('nobody')}", None),
        "RegistrationStatusRead": ("GET", f"/registrations/{unique('nobody')}", None),
        "RegistrationStatusWrite": ("DELETE", f"/registrations/{unique('nobody')}", None),
    }
    allowed = {
        "EnrollmentRead": {"EnrollmentRead"},
        "EnrollmentWrite": {"EnrollmentRead", "EnrollmentWrite"},
        "RegistrationStatusRead": {"RegistrationStatusRead"},
        "RegistrationStatusWrite": {"RegistrationStatusRead", "RegistrationStatusWrite"},
    }
    for right, may in allowed.items():
        name = unique("only").replace("-", "")
        made = owner.must("PUT", f"/admin/v1/policies/dps/{name}", {"rights": [right]})
        caller = Service(
            instance.place, instance.ca_file, made["connectionString"], owner.api_version
        )
        for needed, call in calls.items():
            with subtests.test(msg=f"{needed} with {right}"):
                status = caller.call(*call).status
                assert status in ((200, 404) if needed in may else (401,))
