"""Fields of a row of an enrollment file, each put where the service wants it (dps.md 3.2)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from muster.auth import symmetric_keys
from muster.cli.enrollment_fields import ALLOCATION_POLICIES, READ_ONLY, REPROVISION_POLICIES
from muster.errors import InvalidArgumentError
from muster.ids import check_device_id, check_registration_id
from muster.model.twin import check_limits, without_service_members

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from muster.model.twin import Section

COLUMNS: Final = (
    "registrationId",
    "deviceId",
    "primaryKey",
    "secondaryKey",
    "iotEdge",
    "provisioningStatus",
    "allocationPolicy",
    "iotHubs",
    "reprovisionPolicy",
    "tags",
    "desired",
)
"""Of a CSV file, in the order `export` writes them. Only the first is needed."""

_TRUE: Final = ("true", "yes", "1")
_FALSE: Final = ("false", "no", "0")
_WHOLE: Final = (
    "attestation",
    "capabilities",
    "customAllocationDefinition",
    "initialTwin",
    "optionalDeviceInformation",
)
"""Members of a whole enrollment, all objects, that go to the service as they are."""


class BadValueError(Exception):
    """A value makes no sense; the message says why, and never holds a whole key."""


def registration_id_of(record: dict[str, Any]) -> str:
    """Return the registration ID of a record.

    Raises:
        BadValueError: it has none, or a wrong one.
    """
    registration_id = record.get("registrationId")
    if not isinstance(registration_id, str) or not registration_id:
        raise BadValueError("registrationId is missing")
    try:
        return check_registration_id(registration_id)
    except InvalidArgumentError:
        raise BadValueError(
            f"registrationId: {_shown(registration_id)} is not 1 to 128 of A-Z a-z 0-9 - . _ : "
            "that begin with a letter or digit and end with a letter, digit or hyphen"
        ) from None


def entry_of(registration_id: str, record: dict[str, Any]) -> dict[str, Any]:
    """Return the service's JSON of a record, the fields of `COLUMNS` put where they belong.

    Raises:
        BadValueError: a field is unknown or its value makes no sense; it names the field.
    """
    entry: dict[str, Any] = {
        "registrationId": registration_id,
        "attestation": {"type": "symmetricKey", "symmetricKey": {}},
    }
    for name, value in record.items():
        if name == "registrationId" or name in READ_ONLY:
            continue
        put = _SETTERS.get(name)
        if put is None:
            raise BadValueError(f"there is no field {name!r}. Fields: {', '.join(COLUMNS)}")
        try:
            put(entry, value)
        except BadValueError as error:
            raise BadValueError(f"{name}: {error}") from None
    return entry


# -- one function for each field that is not simply passed on ----------------------------------


def _device_id(entry: dict[str, Any], value: Any) -> None:
    try:
        entry["deviceId"] = check_device_id(value if isinstance(value, str) else "")
    except InvalidArgumentError:
        raise BadValueError(f"{_shown(value)} is no device ID") from None


def _key(name: str) -> Callable[[dict[str, Any], Any], None]:
    def put(entry: dict[str, Any], value: Any) -> None:
        try:
            symmetric_keys.decode(value if isinstance(value, str) else "")
        except InvalidArgumentError as error:
            raise BadValueError(error.message) from None
        _member(entry, "attestation", "symmetricKey")[name] = value

    return put


def _whole(name: str) -> Callable[[dict[str, Any], Any], None]:
    def put(entry: dict[str, Any], value: Any) -> None:
        entry[name] = _document(value)

    return put


def _hub_host(entry: dict[str, Any], value: Any) -> None:
    entry["iotHubHostName"] = str(value)


def _member(entry: dict[str, Any], *names: str) -> dict[str, Any]:
    for name in names:
        entry = entry.setdefault(name, {})
        if not isinstance(entry, dict):
            raise BadValueError(f"{name} is there, too, and is not an object")
    return entry


def _iot_edge(entry: dict[str, Any], value: Any) -> None:
    text = str(value).lower()
    if text not in (*_TRUE, *_FALSE):
        raise BadValueError(f"{_shown(value)} is neither true nor false")
    entry["capabilities"] = {"iotEdge": text in _TRUE}


def _one_of(name: str, allowed: Iterable[str]) -> Callable[[dict[str, Any], Any], None]:
    by_lower = {each.lower(): each for each in allowed}

    def put(entry: dict[str, Any], value: Any) -> None:
        found = by_lower.get(str(value).lower())
        if found is None:
            raise BadValueError(f"{_shown(value)} is not one of {', '.join(by_lower.values())}")
        entry[name] = found

    return put


def _iot_hubs(entry: dict[str, Any], value: Any) -> None:
    hosts = value.split(";") if isinstance(value, str) else value
    if not isinstance(hosts, list) or not all(isinstance(host, str) for host in hosts):
        raise BadValueError("host names are needed, separated by semicolons")
    entry["iotHubs"] = [host.strip() for host in hosts if host.strip()]


def _reprovision_policy(entry: dict[str, Any], value: Any) -> None:
    if isinstance(value, dict):
        entry["reprovisionPolicy"] = value
        return
    policy = REPROVISION_POLICIES.get(str(value).lower())
    if policy is None:
        raise BadValueError(f"{_shown(value)} is not one of {', '.join(REPROVISION_POLICIES)}")
    entry["reprovisionPolicy"] = policy


def _document(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except (ValueError, RecursionError) as error:
            raise BadValueError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadValueError('a JSON object is needed, like {"site": "a"}')
    return value


def _section(value: Any, section: Section) -> dict[str, Any]:
    document = _document(value)
    try:
        check_limits(without_service_members(document), section)
    except InvalidArgumentError as error:
        raise BadValueError(error.message) from None
    return document


def _tags(entry: dict[str, Any], value: Any) -> None:
    _member(entry, "initialTwin")["tags"] = _section(value, "tags")


def _desired(entry: dict[str, Any], value: Any) -> None:
    _member(entry, "initialTwin")["properties"] = {"desired": _section(value, "desired")}


def _shown(value: Any) -> str:
    """Quote a wrong value; a long one may be a key in the wrong column, so not all of it."""
    text = str(value)
    return repr(text if len(text) <= 32 else f"{text[:12]}...")


def parse_json(text: str) -> Any:
    """Read JSON text.

    Raises:
        ValueError: it is none; NaN and infinities are not in JSON.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, parse_constant=_no_constant)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


_SETTERS: Final[dict[str, Callable[[dict[str, Any], Any], None]]] = {
    **{name: _whole(name) for name in _WHOLE},
    "iotHubHostName": _hub_host,
    "deviceId": _device_id,
    "primaryKey": _key("primaryKey"),
    "secondaryKey": _key("secondaryKey"),
    "iotEdge": _iot_edge,
    "provisioningStatus": _one_of("provisioningStatus", ("enabled", "disabled")),
    "allocationPolicy": _one_of("allocationPolicy", ALLOCATION_POLICIES),
    "iotHubs": _iot_hubs,
    "reprovisionPolicy": _reprovision_policy,
    "tags": _tags,
    "desired": _desired,
}
