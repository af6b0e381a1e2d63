"""Access policies: rights, and every way a service call is refused."""

from __future__ import annotations

import pytest

from muster.auth import sas_token, symmetric_keys
from muster.auth.access_policies import (
    DPS_RIGHTS,
    HUB_RIGHTS,
    AccessPolicy,
    Right,
    authorize,
    authorize_for_identity,
    default_dps_policies,
    default_hub_policies,
)
from muster.errors import UnauthorizedError
from muster.ids import Randomness

NOW = 1_700_000_000.0
HOSTS = ("dps.muster.localhost", "localhost")
KEYS = symmetric_keys.generate(Randomness())
POLICY = AccessPolicy("reader", KEYS, frozenset({Right.ENROLLMENT_READ, Right.DEVICE_CONNECT}))
POLICIES = {"reader": POLICY}


def header(
    resource: str = "localhost",
    *,
    key: str = KEYS.primary,
    expiry: int = int(NOW) + 60,
    name: str | None = "reader",
) -> str:
    return sas_token.sign(resource, symmetric_keys.decode(key), expiry, name)


def call(value: str | None, *needs: Right, now: float = NOW) -> AccessPolicy:
    return authorize(
        value,
        hosts=HOSTS,
        path="/enrollments/d1/attestationmechanism",
        policies=POLICIES.get,
        needs=needs or (Right.ENROLLMENT_READ,),
        now=now,
    )


def refusal(value: str | None, *needs: Right, now: float = NOW) -> UnauthorizedError:
    with pytest.raises(UnauthorizedError) as caught:
        call(value, *needs, now=now)
    assert KEYS.primary not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("key", [KEYS.primary, KEYS.secondary], ids=["primary", "secondary"])
@pytest.mark.parametrize(
    "resource",
    [
        *("localhost", "LOCALHOST", "localhost:8443", "dps.muster.localhost", "https://localhost/"),
        *("localhost/enrollments", "https://localhost:443/Enrollments/D1/"),
        "localhost/enrollments/d1/attestationmechanism",
    ],
)
def test_both_keys_and_every_spelling_of_the_host(key: str, resource: str) -> None:
    assert call(header(resource, key=key)) is POLICY


@pytest.mark.parametrize(
    ("value", "code"),
    [
        pytest.param(None, "authorization-missing", id="none"),
        pytest.param("", "authorization-missing", id="empty"),
        pytest.param("Bearer abc", "malformed-token", id="bearer"),
        pytest.param(header(name=None), "policy-missing", id="no skn"),
        pytest.param(header(name="nobody"), "unknown-policy", id="unknown"),
        pytest.param(header(name="Reader"), "unknown-policy", id="names are case-sensitive"),
        pytest.param(
            header(key=symmetric_keys.encode(b"x" * 32)), "wrong-signature", id="other key"
        ),
        pytest.param(header("other.example"), "wrong-resource", id="other host"),
        pytest.param(header("localhost/devices"), "wrong-resource", id="devices only"),
        pytest.param(header("localhost/devices/d"), "wrong-resource", id="one device"),
        pytest.param(header("localhost/enrollments/d"), "wrong-resource", id="half a segment"),
        pytest.param(header("localhost/enrollments/d2"), "wrong-resource", id="another path"),
        pytest.param(header("localhost/enrollments//d1"), "wrong-resource", id="empty segment"),
        pytest.param(header(expiry=int(NOW) - 301), "expired-token", id="expired"),
    ],
)
def test_refused(value: str | None, code: str) -> None:
    assert refusal(value).code == code


def test_expiry_has_grace_and_is_told() -> None:
    assert call(header(expiry=int(NOW) - 300)) is POLICY
    assert "expired 301 s ago" in refusal(header(expiry=int(NOW) - 301)).message


def test_missing_right_is_told() -> None:
    error = refusal(header(), Right.ENROLLMENT_WRITE, Right.SERVICE_CONFIG)
    assert error.code == "missing-right"
    assert error.message.endswith("does not have EnrollmentWrite or ServiceConfig")
    assert call(header(), Right.SERVICE_CONFIG, Right.ENROLLMENT_READ) is POLICY


def test_write_rights_imply_their_read_rights() -> None:
    for write, read in (
        (Right.ENROLLMENT_WRITE, Right.ENROLLMENT_READ),
        (Right.REGISTRATION_STATUS_WRITE, Right.REGISTRATION_STATUS_READ),
        (Right.REGISTRY_WRITE, Right.REGISTRY_READ),
    ):
        policy = AccessPolicy("p", KEYS, frozenset({write}))
        assert policy.allows(write)
        assert policy.allows(read)
        assert {right for right in Right if policy.allows(right)} == {write, read}
        assert not AccessPolicy("p", KEYS, frozenset({read})).allows(write)
    assert not AccessPolicy("p", KEYS, frozenset()).allows(Right.SERVICE_CONNECT)


def test_default_policies() -> None:
    (owner,) = default_dps_policies(Randomness())
    assert owner.name == "provisioningserviceowner"
    assert owner.rights == DPS_RIGHTS
    hub = {policy.name: policy for policy in default_hub_policies(Randomness())}
    assert {name: sorted(policy.rights) for name, policy in hub.items()} == {
        "iothubowner": ["DeviceConnect", "RegistryRead", "RegistryWrite", "ServiceConnect"],
        "service": ["ServiceConnect"],
        "device": ["DeviceConnect"],
        "registryRead": ["RegistryRead"],
        "registryReadWrite": ["RegistryRead", "RegistryWrite"],
    }
    assert len({policy.keys.primary for policy in hub.values()}) == 5
    assert not DPS_RIGHTS & HUB_RIGHTS
    assert set(Right) == DPS_RIGHTS | HUB_RIGHTS


def for_identity(resource: str, device_id: str, module_id: str | None = None) -> AccessPolicy:
    return authorize_for_identity(
        sas_token.parse(header(resource)),
        hosts=HOSTS,
        device_id=device_id,
        module_id=module_id,
        policies=POLICIES.get,
        now=NOW,
    )


@pytest.mark.parametrize(
    ("resource", "device_id", "module_id"),
    [
        ("localhost", "d1", None),
        ("localhost:8443", "d1", "m"),
        ("localhost/devices", "d1", None),
        ("localhost/devices/D1", "d1", None),
        ("localhost/devices/d1", "d1", "m"),
        ("localhost/devices/d1/modules/m", "d1", "m"),
    ],
)
def test_policy_token_for_a_device(resource: str, device_id: str, module_id: str | None) -> None:
    assert for_identity(resource, device_id, module_id) is POLICY


@pytest.mark.parametrize(
    ("resource", "device_id", "module_id"),
    [
        ("other.example", "d1", None),
        ("localhost/devices/d2", "d1", None),
        ("localhost/devices/d1/modules/m", "d1", None),
        ("localhost/devices/d1/modules/m", "d1", "m2"),
    ],
)
def test_policy_token_for_another_device(
    resource: str, device_id: str, module_id: str | None
) -> None:
    with pytest.raises(UnauthorizedError) as caught:
        for_identity(resource, device_id, module_id)
    assert caught.value.code == "wrong-resource"


def test_policy_without_device_connect() -> None:
    policy = AccessPolicy("reader", KEYS, frozenset({Right.SERVICE_CONNECT}))
    with pytest.raises(UnauthorizedError) as caught:
        authorize_for_identity(
            sas_token.parse(header()),
            hosts=HOSTS,
            device_id="d",
            policies={"reader": policy}.get,
            now=NOW,
        )
    assert caught.value.code == "missing-right"


def test_keys_are_not_shown() -> None:
    assert KEYS.primary not in repr(POLICY)
    assert KEYS.secondary not in repr(POLICY)
