"""The tokens and register bodies that the clients of dps.md 2.1 and 9 really send."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote

import pytest

from support.device import (
    dps_login,
    dps_register,
    http_finish,
    http_register,
    registration_token,
    unique,
)
from support.secrets import CLOCK, derive, new_key, raw_token, signature, token

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.instance import Instance

Writer: TypeAlias = "Callable[[str, str], str]"


def in_order(order: str, sr: str, key: str, *, sig: Callable[[str], str] | None = None) -> str:
    """Write the parts in this order; `sig` encodes the signature when not as most do."""
    expiry = int(CLOCK.time()) + 3600
    encode = sig or (lambda text: quote(text, safe=""))
    parts = {
        "sr": sr,
        "sig": encode(signature(sr, expiry, key)),
        "se": str(expiry),
        "skn": "registration",
    }
    return "SharedAccessSignature " + "&".join(f"{name}={parts[name]}" for name in order.split())


def lower_hex(text: str) -> str:
    """Percent-encode with lower-case digits."""
    return quote(text, safe="").replace("%2F", "%2f").replace("%2B", "%2b").replace("%3D", "%3d")


WRITERS: dict[str, Writer] = {
    "python": token,
    "node": lambda resource, key: in_order("sr sig skn se", quote(resource, safe=""), key),
    "c": lambda resource, key: in_order("sr sig se skn", lower_hex(resource), key, sig=lower_hex),
    "c-sharp": lambda resource, key: in_order("sr sig se skn", quote(resource, safe=""), key),
    "aziot": lambda resource, key: raw_token(
        resource.lower(), key, ttl_s=30, key_name="registration"
    ),
    "iotedged-1.1": lambda resource, key: token(resource.lower(), key, key_name="registration"),
    "documented": lambda resource, key: in_order("sr sig se skn", lower_hex(resource.lower()), key),
    "backwards": lambda resource, key: in_order("skn se sig sr", quote(resource, safe=""), key),
    "slash-in-signature": lambda resource, key: in_order(
        "sr sig se", quote(resource, safe=""), key, sig=lambda text: quote(text, safe="/")
    ),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_each_clients_token_is_accepted(instance: Instance, writer: str) -> None:
    registration_id = unique("Token-Of.Mixed_Case")
    key, _ = instance.dps.enroll(registration_id)
    signed = WRITERS[writer](f"{instance.id_scope}/registrations/{registration_id}", key)
    reply = http_finish(
        instance, registration_id, signed, http_register(instance, registration_id, signed)
    )
    assert reply.status == 200
    assert reply.json["status"] == "assigned"
    with dps_login(instance, registration_id, signed) as client:
        assert dps_register(client).status == 202


@pytest.mark.parametrize("writer", ["aziot", "iotedged-1.1", "python"])
def test_group_devices_send_the_same_tokens(instance: Instance, writer: str) -> None:
    registration_id = unique("Member-Of.Group")
    keys = instance.dps.enroll_group(unique("token-group"))
    resource = f"{instance.id_scope}/registrations/{registration_id}"
    for group_key in keys:
        signed = WRITERS[writer](resource, derive(group_key, registration_id))
        first = http_register(instance, registration_id, signed)
        assert http_finish(instance, registration_id, signed, first).json["status"] == "assigned"


def test_a_key_derived_over_the_lower_case_id_is_accepted(instance: Instance) -> None:
    # dps.md 2.2: tools derive over the bytes they were given, devices spell the id their way.
    registration_id = unique("Upper-Case-Member")
    group_key, _ = instance.dps.enroll_group(unique("token-group"))
    key = derive(group_key, registration_id.lower())
    signed = registration_token(instance, registration_id, key)
    assert http_register(instance, registration_id, signed).status == 202


def test_the_documented_derivation_vector() -> None:
    group_key = (
        "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw=="
    )
    derived = derive(group_key, "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6")
    assert derived == "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc="
    assert len(base64.b64decode(derived)) == 32


@pytest.mark.parametrize("length", [16, 24, 64])
def test_keys_of_every_length_work(instance: Instance, length: int) -> None:
    registration_id = unique("length")
    key, _ = instance.dps.enroll(registration_id, new_key(length))
    signed = registration_token(instance, registration_id, key)
    assert http_register(instance, registration_id, signed).status == 202


BODIES = {
    "empty": b"",
    "no-id": b"{}",
    "null-payload": b'{"payload": null, "registrationId": "%s"}',
    "id-in-capitals": b'{"registrationId": "%S"}',
    "unknown-fields": b'{"registrationId": "%s", "tpm": null, "somethingNew": [1, {"a": 2}]}',
    "any-payload": b'{"registrationId": "%s", "payload": [1, "two", {"three": null}]}',
}


def written(body: bytes, registration_id: str) -> bytes:
    return body.replace(b"%s", registration_id.encode()).replace(
        b"%S", registration_id.upper().encode()
    )


@pytest.mark.parametrize("body", BODIES)
def test_each_clients_register_body_is_accepted(instance: Instance, body: str) -> None:
    registration_id = unique("body")
    key, _ = instance.dps.enroll(registration_id)
    signed = registration_token(instance, registration_id, key)
    content = written(BODIES[body], registration_id)
    assert http_register(instance, registration_id, signed, content).status == 202
    with dps_login(instance, registration_id, signed) as client:
        assert dps_register(client, content).status == 202


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Encoding": "utf-8"},
        {"Content-Type": "application/json; charset=utf-8"},
        {"Content-Type": "application/json", "Accept": "application/json", "UserAgent": "c/1.15"},
        {"Content-Type": ""},
    ],
    ids=["docs-curl", "node", "c", "none"],
)
def test_each_clients_headers_are_accepted(instance: Instance, headers: dict[str, str]) -> None:
    registration_id = unique("headers")
    key, _ = instance.dps.enroll(registration_id)
    signed = registration_token(instance, registration_id, key)
    content = json.dumps({"registrationId": registration_id}).encode()
    reply = http_register(instance, registration_id, signed, content, headers=headers)
    assert reply.status == 202


@pytest.mark.parametrize(
    "api_version",
    ["2017-08-31-preview", "2018-11-01", "2019-03-31", "2019-04-15", "2021-06-01", "2026-04-01"],
)
def test_every_api_version_is_accepted(instance: Instance, api_version: str) -> None:
    registration_id = unique("version")
    key, _ = instance.dps.enroll(registration_id)
    signed = registration_token(instance, registration_id, key)
    reply = http_register(instance, registration_id, signed, api_version=api_version)
    assert reply.status == 202


def test_both_keys_stay_good_whichever_came_first(instance: Instance) -> None:
    registration_id = unique("turns")
    keys = instance.dps.enroll(registration_id)
    for key in (keys[0], keys[1], keys[0]):
        signed = registration_token(instance, registration_id, key)
        first = http_register(instance, registration_id, signed)
        assert http_finish(instance, registration_id, signed, first).json["status"] == "assigned"


def test_a_clock_that_is_a_little_off_is_forgiven(instance: Instance) -> None:
    registration_id = unique("skew")
    key, _ = instance.dps.enroll(registration_id)
    signed = registration_token(instance, registration_id, key, ttl_s=-240)
    assert http_register(instance, registration_id, signed).status == 202
