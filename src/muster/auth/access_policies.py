"""Named policies for services and tools: which key grants which rights.

Sources: dps.md 3.5 (provisioning service), hub-service.md 2.1 (hubs).
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

import msgspec

from muster.auth import audience, sas_token, symmetric_keys
from muster.errors import UnauthorizedError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from muster.auth.sas_token import SasToken
    from muster.ids import Randomness


class Right(enum.StrEnum):
    """What a policy may allow, by the services' own names."""

    SERVICE_CONFIG = "ServiceConfig"
    ENROLLMENT_READ = "EnrollmentRead"
    ENROLLMENT_WRITE = "EnrollmentWrite"
    REGISTRATION_STATUS_READ = "RegistrationStatusRead"
    REGISTRATION_STATUS_WRITE = "RegistrationStatusWrite"
    REGISTRY_READ = "RegistryRead"
    REGISTRY_WRITE = "RegistryWrite"
    SERVICE_CONNECT = "ServiceConnect"
    DEVICE_CONNECT = "DeviceConnect"


DPS_RIGHTS: Final = frozenset(
    {
        Right.SERVICE_CONFIG,
        Right.ENROLLMENT_READ,
        Right.ENROLLMENT_WRITE,
        Right.REGISTRATION_STATUS_READ,
        Right.REGISTRATION_STATUS_WRITE,
    }
)
"""What a policy of the provisioning service may allow."""
HUB_RIGHTS: Final = frozenset(Right) - DPS_RIGHTS
"""What a policy of a hub may allow."""

_STREAM_SCHEMES: Final = ("sb://", "amqps://")
_IMPLIED: Final = {
    Right.ENROLLMENT_WRITE: Right.ENROLLMENT_READ,
    Right.REGISTRATION_STATUS_WRITE: Right.REGISTRATION_STATUS_READ,
    Right.REGISTRY_WRITE: Right.REGISTRY_READ,
}


class AccessPolicy(msgspec.Struct, frozen=True):
    """A name that tokens give as `skn`, its keys and what they allow.

    Attributes:
        name: case-sensitive.
        keys: either signs.
        rights: as granted, without the implied ones.
    """

    name: str
    keys: symmetric_keys.SymmetricKeys
    rights: frozenset[Right]

    def allows(self, right: Right) -> bool:
        """Tell whether the policy has the right, also when a write right implies it."""
        return right in self.rights or any(
            _IMPLIED.get(granted) is right for granted in self.rights
        )


def default_dps_policies(randomness: Randomness) -> tuple[AccessPolicy, ...]:
    """Return what a new provisioning service starts with: an owner with every right."""
    return (
        AccessPolicy("provisioningserviceowner", symmetric_keys.generate(randomness), DPS_RIGHTS),
    )


def default_hub_policies(randomness: Randomness) -> tuple[AccessPolicy, ...]:
    """Return the five policies every new hub starts with (hub-service.md 2.1)."""
    table: tuple[tuple[str, frozenset[Right]], ...] = (
        ("iothubowner", HUB_RIGHTS),
        ("service", frozenset({Right.SERVICE_CONNECT})),
        ("device", frozenset({Right.DEVICE_CONNECT})),
        ("registryRead", frozenset({Right.REGISTRY_READ})),
        ("registryReadWrite", frozenset({Right.REGISTRY_READ, Right.REGISTRY_WRITE})),
    )
    return tuple(
        AccessPolicy(name, symmetric_keys.generate(randomness), rights) for name, rights in table
    )


def authorize(
    header: str | None,
    *,
    hosts: Collection[str],
    path: str,
    policies: Callable[[str], AccessPolicy | None],
    needs: Collection[Right],
    now: float,
) -> AccessPolicy:
    """Check the `Authorization` header of a service call and return the policy behind it.

    Args:
        header: its value, or `None` when the call has none.
        hosts: names the called service goes by.
        path: what is called, decoded. The token's resource must be the service, with or without
            a port, or a part of it that has this path, by whole segments (dps.md 3.5).
        policies: finds a policy of that service by its name.
        needs: any one of these rights is enough.
        now: unix seconds.

    Raises:
        UnauthorizedError: codes `authorization-missing`, `malformed-token`, `policy-missing`,
            `unknown-policy`, `wrong-signature`, `wrong-resource`, `expired-token`, `missing-right`.
    """
    if not header:
        raise UnauthorizedError("Authorization header missing", code="authorization-missing")
    token = sas_token.parse(header)
    policy = _signer(token, policies)
    if not audience.covers_path(token.resource, hosts, path):
        raise UnauthorizedError(
            "The token is for another resource than this service",
            code="wrong-resource",
            subject=policy.name,
        )
    _check_time_and_rights(token, policy, needs, now)
    return policy


def authenticate(
    token: SasToken, *, policies: Callable[[str], AccessPolicy | None], now: float
) -> AccessPolicy:
    """Check that a token is of a policy and not expired, and return the policy.

    For tokens that come before what they are for: whoever uses it then checks that with
    `authorize` or `authorize_for_identity`.

    Raises:
        UnauthorizedError: codes `policy-missing`, `unknown-policy`, `wrong-signature`,
            `expired-token`.
    """
    policy = _signer(token, policies)
    _check_time(token, policy, now)
    return policy


def authorize_for_identity(
    token: SasToken,
    *,
    hosts: Collection[str],
    device_id: str,
    module_id: str | None = None,
    policies: Callable[[str], AccessPolicy | None],
    now: float,
    needs: Collection[Right] = (Right.DEVICE_CONNECT,),
) -> AccessPolicy:
    """Check a policy's token where a device or module is meant (hub-device.md 5).

    The resource may be the hub, all its devices, the device or, for a module, the module. The
    caller has seen that the token has a `skn`; that the identity exists and is enabled is its
    business too.

    Raises:
        UnauthorizedError: as `authorize`.
    """
    policy = _signer(token, policies)
    resource = audience.hub_audience(token.resource)
    if not (resource.at(hosts) and resource.covers(device_id, module_id)):
        raise UnauthorizedError(
            "The token is for another resource than this device or module",
            code="wrong-resource",
            subject=policy.name,
        )
    _check_time_and_rights(token, policy, needs, now)
    return policy


def _signer(token: SasToken, policies: Callable[[str], AccessPolicy | None]) -> AccessPolicy:
    if token.key_name is None:
        raise UnauthorizedError("The token names no access policy (skn)", code="policy-missing")
    policy = policies(token.key_name)
    if policy is None:
        raise UnauthorizedError(
            "The token names an access policy that does not exist",
            code="unknown-policy",
            subject=token.key_name[:128],
        )
    pair = (policy.keys.primary, policy.keys.secondary)
    if not (
        any(sas_token.signed_by(token, symmetric_keys.decode(key)) for key in pair)
        # The Event Hubs SDKs sign with the key's text, not with what it stands for
        # (hub-service.md 0.2).
        or (
            token.resource.lower().startswith(_STREAM_SCHEMES)
            and any(sas_token.signed_by(token, key.encode()) for key in pair)
        )
    ):
        raise UnauthorizedError(
            "The token is signed with neither key of its access policy",
            code="wrong-signature",
            subject=policy.name,
        )
    return policy


def _check_time(token: SasToken, policy: AccessPolicy, now: float) -> None:
    late_s = sas_token.expired_for_s(token, now)
    if late_s is not None:
        raise UnauthorizedError(
            f"The token expired {late_s:.0f} s ago", code="expired-token", subject=policy.name
        )


def _check_time_and_rights(
    token: SasToken, policy: AccessPolicy, needs: Collection[Right], now: float
) -> None:
    _check_time(token, policy, now)
    if not any(policy.allows(right) for right in needs):
        raise UnauthorizedError(
            f"The access policy '{policy.name}' does not have {' or '.join(needs)}",
            code="missing-right",
            subject=policy.name,
        )
