"""Rows of an enrollment file: read, checked, and turned into the service's JSON.

A CSV file has a heading with some of `COLUMNS`; a JSON Lines file has an object a line, with the
same names (and JSON instead of text for `tags` and `desired`), or whole enrollments as `muster
enrollment export` and `show --json` write them.
"""

from __future__ import annotations

import csv
import json
from typing import IO, TYPE_CHECKING, Any, Final

import msgspec

from muster.auth import symmetric_keys
from muster.cli.enrollment_fields import ALLOCATION_POLICIES, READ_ONLY, REPROVISION_POLICIES
from muster.errors import InvalidArgumentError
from muster.ids import check_device_id, check_registration_id, registration_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

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


class Row(msgspec.Struct, frozen=True):
    """One good row.

    Attributes:
        line: where it begins in the file, from 1.
        registration_id: whose.
        body: the enrollment as JSON text.
    """

    line: int
    registration_id: str
    body: bytes


class RowError(msgspec.Struct, frozen=True, rename="camel"):
    """Why a row was not taken. Never holds a key.

    Attributes:
        line: where it begins in the file, from 1.
        registration_id: whose; empty when that is what is wrong.
        error: the reason.
        error_code: the service's number; 0 when the row was not sent.
    """

    line: int
    registration_id: str
    error: str
    error_code: int = 0


class _NoRecord(msgspec.Struct, frozen=True):
    """Stands for a line that holds no record, and says why."""

    reason: str


class UnreadableFileError(Exception):
    """The file as a whole makes no sense; the message says why."""


class _BadValueError(Exception):
    """A value makes no sense; the message says why."""


def read_rows(file: IO[str], *, json_lines: bool) -> tuple[list[Row], list[RowError]]:
    """Read a whole file.

    Args:
        file: opened as text with `newline=""`.
        json_lines: whether it is JSON Lines; otherwise CSV.

    Returns:
        Good rows and errors of bad ones, both in the order of the file.

    Raises:
        UnreadableFileError: it is no such file at all.
    """
    rows: list[Row] = []
    errors: list[RowError] = []
    first_lines: dict[str, int] = {}
    records = _json_records(file) if json_lines else _csv_records(file)
    try:
        for line, record in records:
            registration_id = ""
            try:
                if isinstance(record, _NoRecord):
                    errors.append(RowError(line, "", record.reason))
                    continue
                registration_id = _registration_id(record)
                body = msgspec.json.encode(_entry(registration_id, record))
                _first_time(registration_id, line, first_lines)
            except _BadValueError as error:
                errors.append(RowError(line, registration_id, str(error)))
            except (RecursionError, UnicodeEncodeError):
                reason = "nested too deeply, or half of a surrogate pair in a text"
                errors.append(RowError(line, registration_id, reason))
            else:
                rows.append(Row(line, registration_id, body))
    except UnicodeDecodeError:
        raise UnreadableFileError(
            "it is not UTF-8 text; save it as UTF-8 (in a spreadsheet: CSV UTF-8)"
        ) from None
    except csv.Error as error:
        raise UnreadableFileError(f"it is not CSV: {error}") from None
    return rows, errors


def _csv_records(file: IO[str]) -> Iterator[tuple[int, dict[str, Any] | _NoRecord]]:
    reader = csv.reader(file)
    heading = next(reader, None)
    if not heading:
        raise UnreadableFileError("it is empty; the first line must name the columns")
    columns = _columns(heading)
    before = reader.line_num
    for fields in reader:
        line, before = before + 1, reader.line_num
        if not any(field.strip() for field in fields):
            continue
        if len(fields) > len(columns):
            reason = f"{len(fields)} values for {len(columns)} columns; quote values with commas"
            yield line, _NoRecord(reason)
        else:
            values = (field.strip() for field in fields)
            yield line, {name: value for name, value in zip(columns, values, strict=False) if value}


def _columns(heading: list[str]) -> list[str]:
    known = {name.lower(): name for name in COLUMNS}
    columns: list[str] = []
    for text in heading:
        name = known.get(text.strip().lower())
        if name is None:
            hint = "; separate columns with commas" if len(heading) == 1 and ";" in text else ""
            raise UnreadableFileError(
                f"there is no column {text.strip()!r}{hint}. Columns: {', '.join(COLUMNS)}"
            )
        if name in columns:
            raise UnreadableFileError(f"the column {name} is there twice")
        columns.append(name)
    if "registrationId" not in columns:
        raise UnreadableFileError("the column registrationId is missing")
    return columns


def _json_records(file: IO[str]) -> Iterator[tuple[int, dict[str, Any] | _NoRecord]]:
    for line, text in enumerate(file, 1):
        if not text.strip():
            continue
        try:
            record = _parse(text)
        except (ValueError, RecursionError) as error:
            yield line, _NoRecord(f"not JSON: {error}")
            continue
        if not isinstance(record, dict):
            yield line, _NoRecord("not a JSON object")
            continue
        yield line, {name: value for name, value in record.items() if value is not None}


def _first_time(registration_id: str, line: int, first_lines: dict[str, int]) -> None:
    first = first_lines.setdefault(registration_key(registration_id), line)
    if first != line:
        raise _BadValueError(f"registrationId: the same as in line {first}")


def _registration_id(record: dict[str, Any]) -> str:
    registration_id = record.get("registrationId")
    if not isinstance(registration_id, str) or not registration_id:
        raise _BadValueError("registrationId is missing")
    try:
        return check_registration_id(registration_id)
    except InvalidArgumentError:
        raise _BadValueError(
            f"registrationId: {registration_id!r} is not 1 to 128 of A-Z a-z 0-9 - . _ : that "
            "begin with a letter or digit and end with a letter, digit or hyphen"
        ) from None


def _entry(registration_id: str, record: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "registrationId": registration_id,
        "attestation": {"type": "symmetricKey", "symmetricKey": {}},
    }
    for name, value in record.items():
        if name == "registrationId" or name in READ_ONLY:
            continue
        put = _SETTERS.get(name)
        if put is None:
            raise _BadValueError(f"there is no field {name!r}. Fields: {', '.join(COLUMNS)}")
        try:
            put(entry, value)
        except _BadValueError as error:
            raise _BadValueError(f"{name}: {error}") from None
    return entry


# -- one function for each field that is not simply passed on ----------------------------------


def _device_id(entry: dict[str, Any], value: Any) -> None:
    try:
        entry["deviceId"] = check_device_id(value if isinstance(value, str) else "")
    except InvalidArgumentError:
        raise _BadValueError(f"{value!r} is no device ID") from None


def _key(name: str) -> Callable[[dict[str, Any], Any], None]:
    def put(entry: dict[str, Any], value: Any) -> None:
        try:
            symmetric_keys.decode(value if isinstance(value, str) else "")
        except InvalidArgumentError as error:
            raise _BadValueError(error.message) from None
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
            raise _BadValueError(f"{name} is there, too, and is not an object")
    return entry


def _iot_edge(entry: dict[str, Any], value: Any) -> None:
    text = str(value).lower()
    if text not in (*_TRUE, *_FALSE):
        raise _BadValueError(f"{value!r} is neither true nor false")
    entry["capabilities"] = {"iotEdge": text in _TRUE}


def _one_of(name: str, allowed: Iterable[str]) -> Callable[[dict[str, Any], Any], None]:
    by_lower = {each.lower(): each for each in allowed}

    def put(entry: dict[str, Any], value: Any) -> None:
        found = by_lower.get(str(value).lower())
        if found is None:
            raise _BadValueError(f"{value!r} is not one of {', '.join(by_lower.values())}")
        entry[name] = found

    return put


def _iot_hubs(entry: dict[str, Any], value: Any) -> None:
    hosts = value.split(";") if isinstance(value, str) else value
    if not isinstance(hosts, list) or not all(isinstance(host, str) for host in hosts):
        raise _BadValueError("host names are needed, separated by semicolons")
    entry["iotHubs"] = [host.strip() for host in hosts if host.strip()]


def _reprovision_policy(entry: dict[str, Any], value: Any) -> None:
    if isinstance(value, dict):
        entry["reprovisionPolicy"] = value
        return
    policy = REPROVISION_POLICIES.get(str(value).lower())
    if policy is None:
        raise _BadValueError(f"{value!r} is not one of {', '.join(REPROVISION_POLICIES)}")
    entry["reprovisionPolicy"] = policy


def _document(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = _parse(value)
        except (ValueError, RecursionError) as error:
            raise _BadValueError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise _BadValueError('a JSON object is needed, like {"site": "a"}')
    return value


def _tags(entry: dict[str, Any], value: Any) -> None:
    _member(entry, "initialTwin")["tags"] = _document(value)


def _desired(entry: dict[str, Any], value: Any) -> None:
    _member(entry, "initialTwin")["properties"] = {"desired": _document(value)}


def _parse(text: str) -> Any:
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
