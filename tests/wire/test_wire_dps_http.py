"""The provisioning service's device surface over HTTPS, to the letter (dps.md 1.2, 1.6, 6.3)."""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from support.device import (
    dps_http,
    http_finish,
    http_register,
    registration_token,
    unique,
)
from support.secrets import derive, new_key, raw_token, token
from support.service import segment

if TYPE_CHECKING:
    from support.https import Reply
    from support.instance import Instance

OPERATION_ID = re.compile(r"[0-9]+\.[0-9a-f]{16}\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,7})?Z")


def is_error(reply: Reply, status: int, *codes: int) -> dict[str, Any]:
    """Check the error shape of dps.md 1.6 and return it."""
    assert reply.status == status, reply.body
    assert "application/json" in reply.headers["Content-Type"]
    body = reply.json
    assert isinstance(body, dict)
    assert body["errorCode"] in codes if codes else body["errorCode"] // 1000 == status
    assert body["trackingId"] == reply.headers["x-ms-request-id"]
    assert body["message"]
    assert TIME.fullmatch(body["timestampUtc"])
    assert "authenticationKey" not in body
    return body


def test_the_sequence_of_aziot(instance: Instance) -> None:
    registration_id = unique("Aziot-Device")
    key, _ = instance.dps.enroll(registration_id, deviceId="Device-In-Hub")
    # Lower-cased, slash not encoded, thirty seconds, the same token for every poll.
    resource = f"{instance.id_scope}/registrations/{registration_id}".lower()
    signed = raw_token(resource, key, ttl_s=30, key_name="registration")
    first = http_register(instance, registration_id, signed)
    assert first.status == 202
    assert "application/json" in first.headers["Content-Type"]
    assert int(first.headers["Retry-After"]) >= 1
    assert first.headers["Location"].startswith("https://")
    assert first.headers["x-ms-request-id"]
    assert first.json == {"operationId": first.json["operationId"], "status": "assigning"}
    assert OPERATION_ID.fullmatch(first.json["operationId"])

    last = http_finish(instance, registration_id, signed, first)
    assert last.status == 200
    assert last.json["operationId"] == first.json["operationId"]
    assert last.json["status"] == "assigned"
    state = last.json["registrationState"]
    assert state["registrationId"] == registration_id
    assert state["deviceId"] == "Device-In-Hub"
    assert state["assignedHub"] in instance.place.hubs
    assert state["status"] == "assigned"
    assert state["substatus"] == "initialAssignment"
    assert TIME.fullmatch(state["createdDateTimeUtc"])
    assert TIME.fullmatch(state["lastUpdatedDateTimeUtc"])
    assert re.fullmatch(rb'"[0-9a-f-]+"', base64.b64decode(state["etag"]))
    for absent in ("errorCode", "errorMessage", "payload", "tpm"):
        assert state.get(absent) is None

    # Finished operations stay pollable, not for one poll only.
    again = http_finish(instance, registration_id, signed, first)
    assert again.json == last.json


def test_a_group_device_is_told_its_group(instance: Instance) -> None:
    group_id, registration_id = unique("http-group"), unique("member")
    group_key, _ = instance.dps.enroll_group(group_id)
    signed = registration_token(instance, registration_id, derive(group_key, registration_id))
    last = http_finish(
        instance, registration_id, signed, http_register(instance, registration_id, signed)
    )
    assert last.json["registrationState"]["symmetricKey"] == {"enrollmentGroupId": group_id}


def test_the_lookup_is_flat(instance: Instance) -> None:
    registration_id = unique("lookup")
    key, _ = instance.dps.enroll(registration_id)
    signed = registration_token(instance, registration_id, key)
    body = json.dumps({"registrationId": registration_id}).encode()
    unknown = dps_http(instance, "POST", registration_id, signed, body)
    is_error(unknown, 404)
    last = http_finish(
        instance, registration_id, signed, http_register(instance, registration_id, signed)
    )
    found = dps_http(instance, "POST", registration_id, signed, body)
    assert found.status == 200
    assert found.json == last.json["registrationState"]
    is_error(dps_http(instance, "POST", registration_id, None, body), 401, 401000, 401002)


def test_a_disabled_entry(instance: Instance) -> None:
    registration_id = unique("disabled")
    key, _ = instance.dps.enroll(registration_id, provisioningStatus="disabled")
    signed = registration_token(instance, registration_id, key)
    last = http_finish(
        instance, registration_id, signed, http_register(instance, registration_id, signed)
    )
    assert last.status == 200
    assert last.json["status"] == last.json["registrationState"]["status"] == "disabled"
    assert last.json["registrationState"]["registrationId"] == registration_id
    assert last.json["registrationState"]["etag"]
    assert "assignedHub" not in last.json["registrationState"]


def test_no_hub_to_assign(instance: Instance) -> None:
    registration_id = unique("nohub")
    key, _ = instance.dps.enroll(
        registration_id, allocationPolicy="static", iotHubs=["gone.muster.localhost"]
    )
    signed = registration_token(instance, registration_id, key)
    last = http_finish(
        instance, registration_id, signed, http_register(instance, registration_id, signed)
    )
    assert last.status == 200
    assert last.json["status"] == last.json["registrationState"]["status"] == "failed"
    assert last.json["registrationState"]["errorCode"] == 400208
    assert isinstance(last.json["registrationState"]["errorMessage"], str)
    assert instance.explain(registration_id)[0]["check"] == "no-hub-available"


# Refusals that all look the same from outside; only the explanation tells them apart.


def unauthorized(instance: Instance, registration_id: str, authorization: str | None) -> str:
    """Register, which must be unauthorized, and return the check that decided."""
    body = is_error(http_register(instance, registration_id, authorization), 401, 401000, 401002)
    assert body["message"] == "Unauthorized"
    (row,) = instance.explain(body["trackingId"])
    assert row["trackingId"] == body["trackingId"]
    assert row["cause"]
    assert row["remedy"]
    assert "(not recorded)" not in row["cause"] + row["remedy"]
    return str(row["check"])


def signed_over(resource: str, key: str, **options: Any) -> str:
    return token(resource, key, **({"key_name": "registration"} | options))


def test_every_unauthorized_looks_the_same_and_is_explained(
    instance: Instance, subtests: pytest.Subtests
) -> None:
    registration_id = unique("Refused")
    key, _ = instance.dps.enroll(registration_id)
    group_key, _ = instance.dps.enroll_group(unique("http-group"))
    resource = f"{instance.id_scope}/registrations/{registration_id}"
    stranger = unique("stranger")
    strange = f"{instance.id_scope}/registrations/{stranger}"
    undecoded = base64.b64encode(key.encode()).decode()
    group_text = base64.b64encode(group_key.encode()).decode()
    tokens: dict[str, tuple[str, str | None]] = {
        "token-missing": (registration_id, None),
        "token-malformed": (registration_id, "SharedAccessSignature sr=x"),
        "token-expired": (registration_id, signed_over(resource, key, ttl_s=-3600)),
        "wrong-key": (registration_id, signed_over(resource, new_key())),
        "wrong-key-name": (registration_id, signed_over(resource, key, key_name="device")),
        "wrong-registration-in-token": (registration_id, signed_over(strange, key)),
        "key-used-undecoded": (registration_id, signed_over(resource, undecoded)),
        "unknown-registration": (stranger, signed_over(strange, new_key())),
        "group-key-used-directly": (stranger, signed_over(strange, group_key)),
        "derived-from-other-spelling": (
            stranger,
            signed_over(strange, derive(group_key, stranger.upper())),
        ),
        "derived-with-trailing-newline": (
            stranger,
            signed_over(strange, derive(group_key, stranger + "\n")),
        ),
        "derived-from-undecoded-group-key": (
            stranger,
            signed_over(strange, derive(group_text, stranger)),
        ),
    }
    for check, (who, authorization) in tokens.items():
        with subtests.test(msg=check):
            assert unauthorized(instance, who, authorization) == check


def test_no_tpm_is_enrolled(instance: Instance) -> None:
    registration_id = unique("tpm")
    body = {
        "registrationId": registration_id,
        "tpm": {"endorsementKey": "AToAAQALAAMAsgAg", "storageRootKey": "AToAAQALAAMAcgAA"},
    }
    refused = http_register(instance, registration_id, None, body=json.dumps(body).encode())
    said = is_error(refused, 404, 404201)
    (row,) = instance.explain(said["trackingId"])
    assert row["check"] == "tpm-not-enrolled"


def test_a_wrong_id_scope_gives_no_hint(instance: Instance) -> None:
    registration_id = unique("scope")
    key, _ = instance.dps.enroll(registration_id)
    signed = token(f"0ne00000BAD/registrations/{registration_id}", key, key_name="registration")
    reply = http_register(instance, registration_id, signed, id_scope="0ne00000BAD")
    body = is_error(reply, 401, 401000, 401002)
    assert body["message"] == "Unauthorized"
    (row,) = instance.explain(body["trackingId"])
    assert row["check"] == "unknown-id-scope"


def test_an_expired_token_is_explained_with_both_clocks(instance: Instance) -> None:
    registration_id = unique("late")
    key, _ = instance.dps.enroll(registration_id)
    signed = registration_token(instance, registration_id, key, ttl_s=-1000)
    body = is_error(http_register(instance, registration_id, signed), 401, 401000, 401002)
    (row,) = instance.explain(body["trackingId"])
    assert row["facts"]["expired_for_s"] >= 1000
    assert row["facts"]["token_expiry"]
    assert row["facts"]["server_time"]


# Bad requests.


@pytest.mark.parametrize("bad_id", ["bad id", "end.", "-start", "ümlaut", "a" * 129, "semi;colon"])
def test_malformed_ids_are_bad_requests(instance: Instance, bad_id: str) -> None:
    signed = registration_token(instance, bad_id, new_key())
    is_error(http_register(instance, bad_id, signed, b"{}"), 400, 400004)


def test_an_id_in_the_body_must_be_the_one_in_the_address(instance: Instance) -> None:
    registration_id = unique("mismatch")
    key, _ = instance.dps.enroll(registration_id)
    signed = registration_token(instance, registration_id, key)
    body = b'{"registrationId": "another"}'
    is_error(http_register(instance, registration_id, signed, body), 400, 400004)


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b'{"registrationId": 5}', b"[" * 20000])
def test_malformed_json_is_a_bad_request(instance: Instance, body: bytes) -> None:
    registration_id = unique("json")
    key, _ = instance.dps.enroll(registration_id)
    signed = registration_token(instance, registration_id, key)
    is_error(http_register(instance, registration_id, signed, body), 400)


def test_operations_belong_to_one_registration(instance: Instance) -> None:
    mine, other = unique("mine"), unique("other")
    key, _ = instance.dps.enroll(mine)
    other_key, _ = instance.dps.enroll(other)
    signed = registration_token(instance, mine, key)
    operation_id = http_register(instance, mine, signed).json["operationId"]
    other_signed = registration_token(instance, other, other_key)
    stolen = dps_http(instance, "GET", f"{other}/operations/{operation_id}", other_signed)
    is_error(stolen, 404)
    unknown = "5.0123456789abcdef.00000000-0000-0000-0000-000000000000"
    is_error(dps_http(instance, "GET", f"{mine}/operations/{unknown}", signed), 404)
    is_error(dps_http(instance, "GET", f"{mine}/operations/nonsense", signed), 404)
    refused = dps_http(instance, "GET", f"{mine}/operations/{operation_id}", other_signed)
    is_error(refused, 401, 401000, 401002)


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "id1/register"), ("DELETE", "id1/register"), ("PUT", "id1/operations/x")],
)
def test_wrong_methods(instance: Instance, method: str, path: str) -> None:
    reply = dps_http(instance, method, path, None, b"{}")
    assert reply.status == 405
    assert isinstance(reply.json, dict), "Node parses every body before it looks at the status"


def test_a_missing_id(instance: Instance) -> None:
    reply = dps_http(instance, "PUT", "/register", None, b"{}")
    assert reply.status == 405
    assert isinstance(reply.json, dict)


def test_an_address_that_is_nothing_answers_in_json(instance: Instance) -> None:
    reply = dps_http(instance, "GET", "a/b/c/d", None)
    assert reply.status == 404
    assert isinstance(reply.json, dict)


def test_ids_may_be_encoded_in_the_address(instance: Instance) -> None:
    registration_id = unique("mac:aa:bb")
    key, _ = instance.dps.enroll(registration_id)
    assert "%3A" in segment(registration_id)
    signed = registration_token(instance, registration_id, key)
    encoded = http_register(instance, registration_id, signed)
    assert http_finish(instance, registration_id, signed, encoded).json["status"] == "assigned"
    plain = dps_http(instance, "PUT", f"{registration_id}/register", signed, b"{}")
    assert plain.status == 202
