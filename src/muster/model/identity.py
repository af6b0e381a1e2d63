"""Device and module identities: the JSON of the service API and the rules about single values.

Sources: hub-service.md 1.2 and 1.3, hub-device.md 6. Device and module IDs are case-sensitive.
"""

from __future__ import annotations

import base64
import enum
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import UNSET, Struct, UnsetType

from muster.clock import NEVER, format_time
from muster.errors import InvalidArgumentError
from muster.ids import Randomness, check_device_id

EDGE_AGENT: Final = "$edgeAgent"
EDGE_HUB: Final = "$edgeHub"
SYSTEM_MODULES: Final = (EDGE_AGENT, EDGE_HUB)
"""Modules that come with the IoT Edge capability and go with it."""

MANAGED_BY_EDGE: Final = "iotEdge"
"""`managedBy` of the modules the edge runtime owns."""

ANY: Final = "*"
"""If-Match that admits any etag."""

MAX_STATUS_REASON: Final = 128
"""Characters of `statusReason`."""

NEVER_TEXT: Final = format_time(NEVER)

_SCOPE_PREFIX: Final = "ms-azure-iot-edge://"


class IdentityRef(NamedTuple):
    """Names one device or module of one hub; the key under which everything about it is kept.

    Attributes:
        hub: the hub's number.
        device_id: case-sensitive.
        module_id: empty for the device itself.
    """

    hub: int
    device_id: str
    module_id: str = ""

    @property
    def text(self) -> str:
        """`device` or `device/module`, as clients and people write it."""
        return f"{self.device_id}/{self.module_id}" if self.module_id else self.device_id


class Status(enum.StrEnum):
    """Whether a device may connect."""

    ENABLED = "enabled"
    DISABLED = "disabled"


class AuthenticationType(enum.StrEnum):
    """How an identity proves itself."""

    SAS = "sas"
    SELF_SIGNED = "selfSigned"
    CERTIFICATE_AUTHORITY = "certificateAuthority"
    NONE = "none"


_KINDS: Final = {kind.lower(): kind for kind in AuthenticationType}


class SymmetricKey(Struct, rename="camel"):
    """The key pair as the service API carries it."""

    primary_key: str | None = None
    secondary_key: str | None = None

    def __repr__(self) -> str:
        return "SymmetricKey(***)"


class Thumbprints(Struct, rename="camel"):
    """Thumbprints of two equally good client certificates, SHA-1 or SHA-256 in hex."""

    primary_thumbprint: str | None = None
    secondary_thumbprint: str | None = None


class Authentication(Struct, rename="camel"):
    """How an identity proves itself, with its secrets."""

    symmetric_key: SymmetricKey | None = None
    x509_thumbprint: Thumbprints | None = None
    type: str | None = None


class Capabilities(Struct, rename="camel"):
    """What a device is besides a device."""

    iot_edge: bool | None = None


class DeviceIdentity(Struct, rename="camel", kw_only=True):
    """A device as the service API shows it. Times are text in the services' form."""

    device_id: str
    generation_id: str
    etag: str
    connection_state: str
    status: Status
    status_reason: str | None
    connection_state_updated_time: str
    status_updated_time: str
    last_activity_time: str
    cloud_to_device_message_count: int
    authentication: Authentication
    capabilities: Capabilities
    device_scope: str | UnsetType = UNSET
    parent_scopes: list[str]

    @property
    def iot_edge(self) -> bool:
        """Whether the device has the IoT Edge capability."""
        return bool(self.capabilities.iot_edge)


class ModuleIdentity(Struct, rename="camel", kw_only=True):
    """A module as the service API shows it. Times are text in the services' form."""

    module_id: str
    managed_by: str | None
    device_id: str
    generation_id: str
    etag: str
    connection_state: str
    connection_state_updated_time: str
    last_activity_time: str
    cloud_to_device_message_count: int
    authentication: Authentication


class DeviceRequest(Struct, rename="camel", kw_only=True):
    """The body of a device PUT. What is not there (UNSET) is kept on an update."""

    device_id: str | None = None
    status: str | UnsetType | None = UNSET
    status_reason: str | UnsetType | None = UNSET
    authentication: Authentication | None = None
    capabilities: Capabilities | None = None
    device_scope: str | UnsetType | None = UNSET
    parent_scopes: list[str] | UnsetType | None = UNSET


class ModuleRequest(Struct, rename="camel", kw_only=True):
    """The body of a module PUT."""

    module_id: str | None = None
    device_id: str | None = None
    managed_by: str | UnsetType | None = UNSET
    authentication: Authentication | None = None


class BulkProperties(Struct):
    """The properties of a bulk entry; reported ones are a device's own affair and ignored."""

    desired: dict[str, Any] | None = None


class BulkEntry(Struct, rename="camel", kw_only=True):
    """One line of a bulk registry operation (ExportImportDevice, hub-service.md 1.3)."""

    id: str
    module_id: str | None = None
    e_tag: str | None = None
    import_mode: str | None = None
    status: str | UnsetType | None = UNSET
    status_reason: str | UnsetType | None = UNSET
    authentication: Authentication | None = None
    twin_e_tag: str | None = msgspec.field(default=None, name="twinETag")
    tags: dict[str, Any] | None = None
    properties: BulkProperties | None = None
    capabilities: Capabilities | None = None
    device_scope: str | UnsetType | None = UNSET
    parent_scopes: list[str] | UnsetType | None = UNSET
    managed_by: str | UnsetType | None = UNSET


class BulkError(Struct, rename="camel"):
    """Why one entry of a bulk operation failed."""

    device_id: str
    error_code: str
    error_status: str
    module_id: str | None
    operation: str


class BulkWarning(Struct, rename="camel"):
    """Something to know about an entry that succeeded."""

    device_id: str
    warning_code: str
    warning_status: str


class BulkResult(Struct, rename="camel"):
    """What a bulk registry operation answers, success or not (hub-service.md 1.3)."""

    is_successful: bool
    errors: list[BulkError]
    warnings: list[BulkWarning]


class RegistryStatistics(Struct, rename="camel"):
    """How many devices a hub has."""

    total_device_count: int
    enabled_device_count: int
    disabled_device_count: int


def check_module_id(module_id: str) -> str:
    """Return the module ID when it keeps the rule of hub-device.md 6.

    Raises:
        InvalidArgumentError: it does not; code `invalid-device-id`.
    """
    return check_device_id(module_id, "moduleId")


def parse_status(text: str | None) -> Status:
    """Read a status in any case; nothing means enabled.

    Raises:
        InvalidArgumentError: code `invalid-status`.
    """
    try:
        return Status((text or Status.ENABLED).lower())
    except ValueError:
        raise InvalidArgumentError(
            "status must be 'enabled' or 'disabled'", code="invalid-status"
        ) from None


def check_status_reason(reason: str | None) -> str | None:
    """Return the reason when it is short enough.

    Raises:
        InvalidArgumentError: code `invalid-status`.
    """
    if reason is not None and len(reason) > MAX_STATUS_REASON:
        raise InvalidArgumentError(
            f"statusReason must not be longer than {MAX_STATUS_REASON} characters",
            code="invalid-status",
        )
    return reason


def authentication_type(authentication: Authentication) -> AuthenticationType:
    """Return the type of an authentication, told by its content when it does not say.

    Raises:
        InvalidArgumentError: the type is unknown (code `invalid-authentication`) or
            `certificateAuthority`: there is no register of authorities (code
            `unsupported-authentication`).
    """
    if not authentication.type:
        prints = authentication.x509_thumbprint
        certified = prints and (prints.primary_thumbprint or prints.secondary_thumbprint)
        found = AuthenticationType.SELF_SIGNED if certified else AuthenticationType.SAS
    else:
        kind = _KINDS.get(authentication.type.lower())
        if kind is None:
            raise InvalidArgumentError(
                "authentication.type must be one of "
                + ", ".join(f"'{name.value}'" for name in AuthenticationType),
                code="invalid-authentication",
            )
        found = kind
    if found is AuthenticationType.CERTIFICATE_AUTHORITY:
        raise InvalidArgumentError(
            f"authentication.type '{found}' is not supported yet: this hub knows certificates by "
            "their thumbprints, not by who signed them. Use 'selfSigned', or 'sas'",
            code="unsupported-authentication",
        )
    return found


def device_scope(device_id: str, generation_id: str) -> str:
    """Return the scope an edge device spans (hub-service.md 1.2)."""
    return f"{_SCOPE_PREFIX}{device_id}-{generation_id}"


def parse_device_scope(scope: str) -> tuple[str, str]:
    """Return the device ID and the generation ID of a device scope.

    Raises:
        InvalidArgumentError: it is none; code `invalid-device-scope`.
    """
    device_id, dash, generation_id = scope.removeprefix(_SCOPE_PREFIX).rpartition("-")
    if not (scope.startswith(_SCOPE_PREFIX) and dash and device_id and generation_id):
        raise InvalidArgumentError(
            f"A device scope has the form {_SCOPE_PREFIX}{{deviceId}}-{{generationId}}",
            code="invalid-device-scope",
        )
    return device_id, generation_id


def new_etag(randomness: Randomness) -> str:
    """Return a fresh identity etag: base64 of a decimal number, as real hubs' (`NTY3NzA5OTQz`)."""
    number = int.from_bytes(randomness.token_bytes(5), "big") + 100_000_000
    return base64.b64encode(str(number).encode()).decode()


def wire_time(unix_s: float) -> str:
    """Write unix seconds in the services' form; 0 is never."""
    return format_time(datetime.fromtimestamp(unix_s, UTC)) if unix_s else NEVER_TEXT


def matches(if_match: str | None, etag: str) -> bool:
    """Tell whether an If-Match header admits an etag.

    Clients send `"*"` with quotes, bare etags and quoted ones (hub-service.md 10.5).
    """
    return if_match is None or is_star(if_match) or _bare(if_match) == etag


def is_star(if_match: str) -> bool:
    """Tell whether an If-Match header admits anything."""
    return _bare(if_match) == "*"


def _bare(etag: str) -> str:
    return etag.strip().removeprefix("W/").strip('"')
