"""Identities that prove themselves with client certificates, known by their thumbprints."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from muster.auth import thumbprints
from muster.errors import InvalidArgumentError
from muster.hub.authentication import NEVER_EXPIRES, RefusedError
from muster.model.identity import (
    Authentication,
    BulkEntry,
    DeviceRequest,
    IdentityRef,
    ModuleRequest,
    SymmetricKey,
    Thumbprints,
)
from unit.hub.hub_parts import KEY, own_keys
from unit.hub.hub_rest import Rest

if TYPE_CHECKING:
    from unit.hub.hub_parts import Parts

FIRST = b"the first certificate"
SECOND = b"the second certificate"
OTHER = b"somebody else's certificate"
SHA1 = thumbprints.of(FIRST).sha1
SHA256 = thumbprints.of(SECOND).sha256
WITHDRAWN = "a certificate of the identity was withdrawn"


def certified(primary: str | None = SHA1, secondary: str | None = SHA256.lower()) -> Authentication:
    return Authentication(None, Thumbprints(primary, secondary), "selfSigned")


def colons(digits: str) -> str:
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))


async def device(parts: Parts, **fields: Any) -> IdentityRef:
    return await parts.device(authentication=certified(**fields))


async def update(parts: Parts, **fields: Any) -> Any:
    return await parts.identities.update(parts.hub.id, "d1", DeviceRequest(**fields), "*")


# The registry.


async def test_thumbprints_are_kept_as_they_are_given_without_colons(parts: Parts) -> None:
    ref = await device(parts, primary=colons(SHA1.lower()))
    shown = (await parts.identities.get(ref.hub, "d1")).authentication
    assert shown == Authentication(
        SymmetricKey(), Thumbprints(SHA1.lower(), SHA256.lower()), "selfSigned"
    )
    twin = await parts.twins.get(ref)
    assert twin.authentication_type == "selfSigned"
    assert twin.x509_thumbprint == Thumbprints(SHA1.lower(), SHA256.lower())
    (listed,) = await parts.identities.page(ref.hub, 10)
    assert listed.authentication == shown


async def test_modules_have_them_too(parts: Parts) -> None:
    await parts.device()
    ref = IdentityRef(parts.hub.id, "d1", "m1")
    made = await parts.modules.create(ref, ModuleRequest(authentication=certified()))
    assert made.authentication.x509_thumbprint == Thumbprints(SHA1, SHA256.lower())
    assert (await parts.modules.get(ref)).authentication == made.authentication
    assert await parts.modules.of_device(ref.hub, "d1") == [await parts.modules.get(ref)]
    assert (await parts.twins.get(ref)).x509_thumbprint.primary_thumbprint == SHA1
    changed = await parts.modules.update(ref, ModuleRequest(authentication=own_keys()), "*")
    assert changed.authentication.type == "sas"
    assert (await parts.modules.get(ref)).authentication.x509_thumbprint == Thumbprints()


async def test_an_update_takes_what_it_names(parts: Parts) -> None:
    await device(parts)
    kept = await update(parts, status_reason="audit")
    assert kept.authentication.x509_thumbprint == Thumbprints(SHA1, SHA256.lower())
    kept = await update(parts, authentication=Authentication(None, None, "selfSigned"))
    assert kept.authentication.x509_thumbprint == Thumbprints(SHA1, SHA256.lower())
    rolled = await update(parts, authentication=certified(SHA256, None))
    assert rolled.authentication.x509_thumbprint == Thumbprints(SHA256, None)
    back = await update(parts, authentication=own_keys())
    assert (back.authentication.type, back.authentication.x509_thumbprint) == (
        "sas",
        Thumbprints(),
    )


@pytest.mark.parametrize(
    ("authentication", "code"),
    [
        (Authentication(type="selfSigned"), "invalid-thumbprint"),
        (Authentication(None, Thumbprints("", ""), "selfSigned"), "invalid-thumbprint"),
        (certified("AB"), "invalid-thumbprint"),
        (certified(SHA1, "x" * 40), "invalid-thumbprint"),
        (Authentication(type="certificateAuthority"), "unsupported-authentication"),
    ],
)
async def test_what_no_identity_can_have(
    parts: Parts, authentication: Authentication, code: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        await parts.device(authentication=authentication)
    assert caught.value.code == code


async def test_they_come_in_bulk(parts: Parts) -> None:
    entries = [
        BulkEntry(id="d1", import_mode="create", authentication=certified()),
        BulkEntry(id="d2", import_mode="create", authentication=certified("zz")),
    ]
    failures = await parts.bulk.run(parts.hub.id, entries)
    assert [(failure.entry.id, failure.error.code) for failure in failures] == [
        ("d2", "invalid-thumbprint")
    ]
    shown = await parts.identities.get(parts.hub.id, "d1")
    assert shown.authentication.type == "selfSigned"


async def test_queries_find_them(parts: Parts, rest: Rest) -> None:
    await device(parts)
    await parts.device("d2")
    text = (
        "SELECT deviceId, x509Thumbprint FROM devices "
        f"WHERE x509Thumbprint.primaryThumbprint = '{SHA1}'"
    )
    rows = await rest.must("POST", "/devices/query", {"query": text})
    assert rows == [
        {
            "deviceId": "d1",
            "x509Thumbprint": {
                "primaryThumbprint": SHA1,
                "secondaryThumbprint": SHA256.lower(),
            },
        }
    ]
    text = "SELECT deviceId FROM devices WHERE IS_NULL(x509Thumbprint.secondaryThumbprint)"
    assert await rest.must("POST", "/devices/query", {"query": text}) == [{"deviceId": "d2"}]


# Logging in.


@pytest.mark.parametrize("certificate", [FIRST, SECOND])
async def test_either_certificate_opens(parts: Parts, certificate: bytes) -> None:
    ref = await device(parts)
    login = await parts.authenticator.login(parts.hub, ref, None, certificate)
    assert (login.ref, login.scope, login.expires_at) == (ref, "device-certificate", NEVER_EXPIRES)


async def test_the_stamp_says_how(parts: Parts) -> None:
    ref = await device(parts)
    client = await parts.connect(ref, password=None, certificate=FIRST)
    client.publish("devices/d1/messages/events/", b"{}")
    await client.take()
    (event,) = await parts.events()
    assert event.system_properties["iothub-connection-auth-method"] == (
        '{"scope":"device","type":"x509","issuer":"iothub","acceptingIpFilterRule":null}'
    )


async def test_no_token_ends_the_connection(parts: Parts) -> None:
    ref = await device(parts)
    client = await parts.connect(ref, password=None, certificate=FIRST)
    parts.clock.advance(10_000_000)
    await parts.connections.tick()
    assert not client.peer.closed


async def test_refusals_name_their_check(parts: Parts) -> None:
    ref = await device(parts)
    plain = await parts.device("d2")
    bare = await parts.device("d3", authentication=Authentication(type="none"))
    off = await parts.device("d4", authentication=certified(), status="disabled")
    missing = IdentityRef(ref.hub, "nobody")
    for who, password, certificate, check in (
        (ref, None, OTHER, "wrong-certificate"),
        (ref, None, None, "token-missing"),
        (ref, parts.token(ref, KEY), FIRST, "certificate-expected"),
        (plain, None, FIRST, "certificate-not-expected"),
        (bare, None, FIRST, "certificate-not-expected"),
        (off, None, FIRST, "device-disabled"),
        (off, None, OTHER, "wrong-certificate"),
        (missing, None, FIRST, "unknown-device"),
    ):
        with pytest.raises(RefusedError) as caught:
            await parts.authenticator.login(parts.hub, who, password, certificate)
        assert caught.value.check == check
        if check == "wrong-certificate":
            assert caught.value.facts == {
                "thumbprint": thumbprints.of(OTHER).sha256,
                "sha1": thumbprints.of(OTHER).sha1,
            }


async def test_a_token_counts_more_than_a_certificate(parts: Parts) -> None:
    """A device with a key connects as ever, whatever certificate its TLS stack presents."""
    ref = await parts.device()
    login = await parts.authenticator.login(parts.hub, ref, parts.token(ref), OTHER)
    assert login.scope == "device"


async def test_a_module_is_not_its_device(parts: Parts) -> None:
    await device(parts)
    ref = await parts.module()
    with pytest.raises(RefusedError) as caught:
        await parts.authenticator.login(parts.hub, ref, None, FIRST)
    assert caught.value.check == "certificate-not-expected"
    await parts.modules.update(ref, ModuleRequest(authentication=certified(SHA256, None)), "*")
    login = await parts.authenticator.login(parts.hub, ref, None, SECOND)
    assert login.scope == "module-certificate"


# Withdrawing.


async def test_a_withdrawn_certificate_ends_the_connection(parts: Parts) -> None:
    ref = await device(parts)
    client = await parts.connect(ref, password=None, certificate=FIRST)
    await update(parts, authentication=certified(SHA1, SHA256.upper()))
    assert not client.peer.closed
    await update(parts, authentication=certified(SHA256, None))
    assert await client.gone() == WITHDRAWN
    assert await parts.refused(ref, password=None, certificate=FIRST) == 5
    await parts.connect(ref, password=None, certificate=SECOND)


async def test_so_does_that_of_a_module(parts: Parts) -> None:
    await parts.device()
    ref = await parts.module()
    await parts.modules.update(ref, ModuleRequest(authentication=certified()), "*")
    client = await parts.connect(ref, password=None, certificate=FIRST)
    await parts.modules.update(ref, ModuleRequest(authentication=own_keys()), "*")
    assert await client.gone() == WITHDRAWN


async def test_a_login_on_its_way_does_not_slip_through(parts: Parts) -> None:
    ref = await device(parts)
    attempt = parts.connections.begin(ref)
    await parts.authenticator.login(parts.hub, ref, None, FIRST)
    await update(parts, authentication=certified(SHA256, None))
    await asyncio.sleep(0)
    assert attempt.barred


# Calls over HTTPS.


async def test_devices_call_with_their_certificate(parts: Parts, rest: Rest) -> None:
    await device(parts)
    path = "/devices/d1/messages/events"
    reply = await rest.call("POST", path, b"{}", authorization="", certificate=FIRST)
    assert reply.status == 204
    reply = await rest.call("POST", path, b"{}", authorization="", certificate=OTHER)
    assert reply.error == (401, "IotHubUnauthorizedAccess")
    path = "/devices/d1/modules/m1"
    reply = await rest.call("PUT", path, {}, authorization="", certificate=FIRST)
    assert reply.status == 200
    reply = await rest.call("GET", path, authorization="", certificate=OTHER)
    assert reply.status == 401
    reply = await rest.call("GET", "/devices/d1", authorization="", certificate=FIRST)
    assert reply.status == 401
