"""Connection strings: `HostName=...;SharedAccessKeyName=...;SharedAccessKey=...`.

The one text a person copies to reach a service or to give a device its identity. Which parts exist
is in hub-service.md 2.1 and dps.md 3.5.
"""

from __future__ import annotations

from typing import Final

import msgspec

from muster.auth import symmetric_keys
from muster.errors import InvalidArgumentError

_FIELDS: Final = {
    "hostname": "host",
    "sharedaccesskeyname": "key_name",
    "sharedaccesskey": "key",
    "sharedaccesssignature": "signature",
    "deviceid": "device_id",
    "moduleid": "module_id",
    "gatewayhostname": "gateway_host",
}
_NAMES: Final = (
    "HostName, DeviceId, ModuleId, SharedAccessKeyName, SharedAccessKey, SharedAccessSignature, "
    "GatewayHostName"
)
_MAX_LENGTH: Final = 8192


class ConnectionString(msgspec.Struct, frozen=True, kw_only=True):
    """What a connection string says.

    Attributes:
        host: host name without the port.
        port: where `HostName` had `:port`, else `None` (the protocol's usual port).
        key_name: the access policy the key belongs to, for services.
        key: base64 key; never shown.
        signature: a ready SAS token instead of a key; never shown.
        device_id: for a device or module.
        module_id: for a module.
        gateway_host: where to connect instead of `host`, which keeps its place in tokens.
        x509: `true` for a device with a client certificate instead of a key; written only.
    """

    host: str
    port: int | None = None
    key_name: str | None = None
    key: str | None = None
    signature: str | None = None
    device_id: str | None = None
    module_id: str | None = None
    gateway_host: str | None = None
    x509: str | None = None

    @property
    def host_name(self) -> str:
        """The host with its port where it has one, as tokens and URLs want it."""
        return self.host if self.port is None else f"{self.host}:{self.port}"

    def __repr__(self) -> str:
        shown = [f"host_name={self.host_name!r}"]
        shown += [
            f"{name}={value!r}"
            for name in ("key_name", "device_id", "module_id", "gateway_host")
            if (value := getattr(self, name)) is not None
        ]
        shown += [f"{name}=***" for name in ("key", "signature") if getattr(self, name) is not None]
        return f"ConnectionString({', '.join(shown)})"


def parse(text: str) -> ConnectionString:
    """Read a connection string. Names of parts may be in any case, parts in any order.

    Raises:
        InvalidArgumentError: a part is unknown, doubled or empty, `HostName` is missing, or the
            key is not base64; code `invalid-connection-string`. The message quotes nothing of
            the text, which may be a secret pasted into the wrong place.
    """
    if len(text) > _MAX_LENGTH:
        raise _invalid(f"it is longer than {_MAX_LENGTH} characters")
    values: dict[str, str] = {}
    parts = [part for part in text.strip().split(";") if part.strip()]
    for number, part in enumerate(parts, 1):
        name, equals, value = part.partition("=")
        field = _FIELDS.get(name.strip().lower())
        if not equals or field is None:
            raise _invalid(f"part {number} is not one of {_NAMES}")
        if field in values:
            raise _invalid(f"part {number} is given twice")
        value = value.strip()
        if not value:
            raise _invalid(f"part {number} is empty")
        values[field] = value
    if "host" not in values:
        raise _invalid("HostName is missing")
    if "module_id" in values and "device_id" not in values:
        raise _invalid("ModuleId needs DeviceId")
    if "key" in values:
        try:
            symmetric_keys.decode(values["key"])
        except InvalidArgumentError as error:
            raise _invalid(f"SharedAccessKey: {error.message}") from None
    host, port = _split_port(values.pop("host"))
    return ConnectionString(host=host, port=port, **values)


def format(connection: ConnectionString) -> str:  # noqa: A001 - reads well behind its module
    """Write a connection string, its parts in the order Azure uses. Contains the key.

    Raises:
        InvalidArgumentError: a part contains a `;`, which the form cannot carry (a device ID
            may); code `invalid-connection-string`.
    """
    parts = (
        ("HostName", connection.host_name),
        ("DeviceId", connection.device_id),
        ("ModuleId", connection.module_id),
        ("SharedAccessKeyName", connection.key_name),
        ("SharedAccessKey", connection.key),
        ("SharedAccessSignature", connection.signature),
        ("GatewayHostName", connection.gateway_host),
        ("x509", connection.x509),
    )
    present = [(name, value) for name, value in parts if value is not None]
    for name, value in present:
        if ";" in value:
            raise InvalidArgumentError(
                f"No connection string can be written: {name} contains a semicolon",
                code="invalid-connection-string",
            )
    return ";".join(f"{name}={value}" for name, value in present)


def _split_port(host_name: str) -> tuple[str, int | None]:
    host, colon, port = host_name.rpartition(":")
    # An IPv6 address has its own colons and carries a port only behind a bracket.
    if not colon or (":" in host and not host.endswith("]")):
        return host_name, None
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else 0
    if not host or not 0 < number < 65536:
        raise _invalid("HostName must be a host, or a host, a colon and a port from 1 to 65535")
    return host, number


def _invalid(reason: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"The connection string cannot be read: {reason}", code="invalid-connection-string"
    )
