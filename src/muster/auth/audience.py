"""What a token is good for: reading and comparing its decoded resource.

Resources are compared without regard to case, because edge daemons lower-case theirs, while the
IDs themselves stay case-sensitive wherever they are looked up (hub-device.md 5, dps.md 0.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

import msgspec

from muster.errors import UnauthorizedError

if TYPE_CHECKING:
    from collections.abc import Collection

    from muster.auth.sas_token import SasToken

_LEGACY_TAIL: Final = ("api-version=", "?api-version=")


class HubAudience(msgspec.Struct, frozen=True):
    """The resource of a hub token: a hub, all its devices, a device or a module.

    Attributes:
        host: as in the token, with its port where it has one.
        device_id: as in the token (perhaps lower-cased), `None` for a hub or all its devices.
        module_id: likewise, `None` unless it names a module.
        whole_hub: it names the hub itself, not only the devices below it.
    """

    host: str
    device_id: str | None = None
    module_id: str | None = None
    whole_hub: bool = False

    def at(self, hosts: Collection[str]) -> bool:
        """Tell whether the host is one of these names; see `same_host`."""
        return same_host(self.host, hosts)

    def names(self, device_id: str, module_id: str | None = None) -> bool:
        """Tell whether this is exactly that device or module: what its own key may sign."""
        return (
            self.device_id is not None
            and _same_id(self.device_id, device_id)
            and (
                module_id is None
                if self.module_id is None
                else module_id is not None and _same_id(self.module_id, module_id)
            )
        )

    def covers(self, device_id: str, module_id: str | None = None) -> bool:
        """Tell whether that device or module lies at or below this, by whole segments."""
        if self.device_id is None:
            return True
        if not _same_id(self.device_id, device_id):
            return False
        return self.module_id is None or (
            module_id is not None and _same_id(self.module_id, module_id)
        )


def hub_audience(resource: str) -> HubAudience:
    """Read the decoded resource of a hub token.

    `{host}`, `{host}/devices`, `{host}/devices/{D}` or `{host}/devices/{D}/modules/{M}`. A
    scheme before the host and the `/api-version=...` that old tools put behind the device ID are
    ignored (hub-device.md 5).

    Raises:
        UnauthorizedError: it is nothing of that; code `wrong-resource`.
    """
    segments = resource.partition("://")[2].split("/") if "://" in resource else resource.split("/")
    if len(segments) > 1 and segments[-1].lower().startswith(_LEGACY_TAIL):
        segments.pop()
    if len(segments) > 1 and not segments[-1]:
        segments.pop()
    count = len(segments)
    if all(segments):
        if count == 1:
            return HubAudience(segments[0], whole_hub=True)
        if segments[1].lower() == "devices":
            if count == 2:
                return HubAudience(segments[0])
            if count == 3:
                return HubAudience(segments[0], segments[2])
            if count == 5 and segments[3].lower() == "modules":
                return HubAudience(segments[0], segments[2], segments[4])
    raise UnauthorizedError(
        "The token's resource is neither a hub nor a device or module of one",
        code="wrong-resource",
    )


def covers_path(resource: str, hosts: Collection[str], path: str) -> bool:
    """Tell whether a resource is one of these hosts or leads, by whole segments, to a path there.

    Args:
        resource: from a token, decoded; a scheme before it is ignored.
        hosts: see `same_host`.
        path: what is called, decoded; paths are the same in any case.
    """
    host, *prefix = (resource.partition("://")[2] or resource).rstrip("/").lower().split("/")
    return same_host(host, hosts) and path.lower().strip("/").split("/")[: len(prefix)] == prefix


def same_host(host: str, hosts: Collection[str]) -> bool:
    """Tell whether a host, with or without `:port`, is one of the given names.

    Args:
        host: from a token; any case.
        hosts: the accepted names without ports, any case. A name with a port accepts that port
            only.
    """
    host = host.lower()
    name = _without_port(host)
    return any(accepted in (name, host) for accepted in map(str.lower, hosts))


def same_resource(token: SasToken, expected: str) -> bool:
    """Tell whether the token is for that resource, without regard to case.

    Args:
        token: what was received.
        expected: in plain text, for example `{idScope}/registrations/{registrationId}`.
    """
    return token.resource.rstrip("/").lower() == expected.lower()


def _same_id(segment: str, identifier: str) -> bool:
    segment = segment.lower()
    identifier = identifier.lower()
    # The C# SDK escapes the ID inside the resource and then the resource as a whole.
    return segment == identifier or ("%" in segment and unquote(segment) == identifier)


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    if colon and port.isdigit() and (":" not in name or name.endswith("]")):
        return name
    return host
