"""What the desired properties of `$edgeHub` say (edge.md 6.1)."""

from __future__ import annotations

import re
from typing import Any, Final

from msgspec import Struct

from muster.edge.hub import routes
from muster.errors import InvalidArgumentError, MusterError

DEFAULT_TTL_S: Final = 7_200
DEFAULT_MAX_BYTES: Final = 512 * 1024 * 1024
"""What queues may hold where the deployment says nothing; a full disk helps nobody."""

_MAJOR: Final = 1
_NEWEST_MINOR: Final = 3
_WITH_PRIORITIES: Final = 1
"""Minor version from which on routes may be objects."""
_VERSION: Final = re.compile(r"([0-9]{1,5})\.([0-9]{1,5})(?:\.[0-9]{1,5}){0,2}")
_NAME: Final = re.compile(r"[^.$# ]+")
_MAX_PRIORITY: Final = 9
_MAX_SECONDS: Final = 0xFFFF_FFFF


class Configuration(Struct, frozen=True, kw_only=True):
    """How the edge hub is to work.

    Attributes:
        routes: all of them.
        ttl_s: seconds a message is kept at most; `None` for ever.
        max_bytes: what all queues together may hold.
    """

    routes: tuple[routes.Route, ...] = ()
    ttl_s: int | None = DEFAULT_TTL_S
    max_bytes: int = DEFAULT_MAX_BYTES


def parse(desired: dict[str, Any]) -> Configuration:
    """Read desired properties.

    Raises:
        InvalidArgumentError: the edge hub cannot work so; the message is for the
            `lastDesiredStatus` that it reports.
    """
    try:
        minor = _minor(desired)
        store = _store(desired.get("storeAndForwardConfiguration"), minor)
        found = _object(desired.get("routes") or {}, "routes")
        return Configuration(
            routes=tuple(
                route
                for name, value in found.items()
                if (route := _route(name, value, minor)) is not None
            ),
            ttl_s=store.ttl_s,
            max_bytes=store.max_bytes,
        )
    except MusterError as error:
        raise InvalidArgumentError(
            f"Error while parsing desired properties - {error.message}", code=error.code
        ) from None


def _minor(desired: dict[str, Any]) -> int:
    version = desired.get("schemaVersion")
    if version is None:
        raise _wrong("EdgeHub config missing SchemaVersion")
    found = _VERSION.fullmatch(str(version))
    if found is None:
        raise _wrong(f"Error parsing schema version string: {str(version)[:64]}")
    major, minor = int(found[1]), int(found[2])
    if major != _MAJOR or minor > _NEWEST_MINOR:
        raise _wrong(f"EdgeHub config contains unsupported SchemaVersion: {version}")
    return minor


def _store(value: Any, minor: int) -> Configuration:
    if value is None:
        if minor >= _WITH_PRIORITIES:
            raise _wrong("storeAndForwardConfiguration is missing")
        return Configuration()
    store = _object(value, "storeAndForwardConfiguration")
    ttl_s = _whole(
        store.get("timeToLiveSecs", DEFAULT_TTL_S),
        "storeAndForwardConfiguration.timeToLiveSecs",
        -_MAX_SECONDS,
    )
    limits = _object(store.get("storeLimits") or {}, "storeAndForwardConfiguration.storeLimits")
    max_bytes = limits.get("maxBytes")
    return Configuration(
        ttl_s=None if ttl_s < 0 else ttl_s or DEFAULT_TTL_S,
        max_bytes=DEFAULT_MAX_BYTES
        if max_bytes is None
        else _whole(max_bytes, "storeAndForwardConfiguration.storeLimits.maxBytes", 1, 1 << 62),
    )


def _route(name: str, value: Any, minor: int) -> routes.Route | None:
    """Return a route, `None` for one that is deleted by having no text."""
    where = f"Error parsing route {name[:128]} - "
    if not _NAME.fullmatch(name):
        raise _wrong(f"{where}a name has no '.', '$', '#' or space")
    priority, ttl_s = routes.LOWEST_PRIORITY, 0
    if isinstance(value, dict) and minor >= _WITH_PRIORITIES:
        if value.get("priority") is not None:
            priority = _whole(value["priority"], f"{where}priority", 0, _MAX_PRIORITY)
        if value.get("timeToLiveSecs") is not None:
            ttl_s = _whole(value["timeToLiveSecs"], f"{where}timeToLiveSecs", 0)
        value = value.get("route")
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise _wrong(f"{where}it is no text")
    if not value.strip():
        return None
    try:
        return routes.parse(name, value, priority=priority, ttl_s=ttl_s)
    except MusterError as error:
        raise InvalidArgumentError(f"{where}{error.message}", code=error.code) from None


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(f"{name} must be an object")
    return value


def _whole(value: Any, name: str, least: int, most: int = _MAX_SECONDS) -> int:
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or not least <= value <= most:
        raise _wrong(f"{name} must be a whole number from {least} to {most}")
    return value


def _wrong(message: str) -> InvalidArgumentError:
    return InvalidArgumentError(message, code="invalid-edge-hub-configuration")
