"""Payloads of the direct methods on `$edgeAgent` (edge.md 5.4).

Names of members count in any case, as they do for the official agent, and so do its error texts.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Final, TypeAlias

import msgspec

from muster.edge.agent.log_lines import LogFilter
from muster.edge.engine.base import LogRange
from muster.edge.log_times import read_moment

JsonObject: TypeAlias = dict[str, Any]

ALL_MODULES: Final = "all"

_VERSION: Final = re.compile(r"([0-9]{1,9})\.[0-9]{1,9}(?:\.[0-9]{1,9}){0,2}").fullmatch
_LONGEST_PATTERN: Final = 1000
_MOST: Final = 2**31 - 1


class BadRequestError(Exception):
    """A request that says too little or something wrong; answered with 400."""


class VersionError(Exception):
    """A request in a form of another time; answered with 500, as the official agent does."""


class LogItem(msgspec.Struct, frozen=True, kw_only=True):
    """Logs of some modules.

    Attributes:
        modules: regular expression, found in their names in any case; empty for all.
        range: what the runtime chooses.
        chosen: what is chosen after that.
    """

    modules: str
    range: LogRange
    chosen: LogFilter


class LogsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`GetModuleLogs` and `UploadModuleLogs`.

    Attributes:
        items: of those that a module matches, the first counts.
        as_json: `contentType` is `json`.
        compressed: `encoding` is `gzip`.
        sas_url: of the container to upload to; empty for `GetModuleLogs`.
    """

    items: tuple[LogItem, ...]
    as_json: bool
    compressed: bool
    sas_url: str


class BundleRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`UploadSupportBundle`."""

    sas_url: str
    since: datetime | None
    until: datetime | None
    runtime_only: bool


def restart(payload: Any) -> str:
    """Return the name of the module that `RestartModule` names."""
    fields = _Fields(payload)
    fields.check_version("restart module request schema")
    return fields.text("id")


def task_status(payload: Any) -> str:
    """Return the correlation ID that `GetTaskStatus` asks about."""
    fields = _Fields(payload)
    fields.check_version("logs upload request schema")
    return fields.text("correlationId")


def logs(payload: Any, now: datetime, *, upload: bool) -> LogsRequest:
    """Read `GetModuleLogs`, or with `upload` `UploadModuleLogs`."""
    fields = _Fields(payload)
    fields.check_version("logs upload request schema")
    as_json = fields.choice("contentType", ("text", "json")) == "json"
    items = fields.get("items")
    if items is None:
        raise _unreadable("items is missing")
    return LogsRequest(
        items=tuple(
            _item(item, now, as_json=as_json)
            for item in (items if isinstance(items, list) else [items])
        ),
        as_json=as_json,
        compressed=fields.choice("encoding", ("none", "gzip")) == "gzip",
        sas_url=fields.text("sasUrl") if upload else "",
    )


def bundle(payload: Any, now: datetime) -> BundleRequest:
    """Read `UploadSupportBundle`."""
    fields = _Fields(payload)
    fields.check_version("support bundle request schema")
    runtime_only = fields.get("edgeRuntimeOnly")
    if not isinstance(runtime_only, bool | None):
        raise _unreadable("edgeRuntimeOnly is not a boolean")
    return BundleRequest(
        sas_url=fields.text("sasUrl"),
        since=fields.moment("since", now),
        until=fields.moment("until", now),
        runtime_only=bool(runtime_only),
    )


def _item(payload: Any, now: datetime, *, as_json: bool) -> LogItem:
    item = _Fields(payload)
    name = item.text("id")
    filters = _Fields(item.get("filter") or {})
    timestamps = filters.get("includeTimestamp")
    if not isinstance(timestamps, bool | None):
        raise _unreadable("includeTimestamp is not a boolean")
    tail = filters.number("tail")
    pattern = filters.get("regex")
    return LogItem(
        modules=_pattern("" if name.lower() == ALL_MODULES else name, "id"),
        range=LogRange(
            tail=tail,
            since=filters.moment("since", now),
            until=filters.moment("until", now),
            timestamps=as_json or bool(timestamps),
        ),
        chosen=LogFilter(
            tail=tail,
            level=filters.number("loglevel"),
            pattern=None if pattern is None else _pattern(pattern, "regex"),
        ),
    )


def _pattern(text: Any, name: str) -> str:
    if not isinstance(text, str) or len(text) > _LONGEST_PATTERN:
        raise _unreadable(f"{name} is not a string of up to {_LONGEST_PATTERN} characters")
    return text


def _unreadable(why: str) -> BadRequestError:
    return BadRequestError(f"Error parsing command payload because of error - {why}")


class _Fields:
    """The members of a payload."""

    def __init__(self, payload: Any) -> None:
        if payload is None:
            raise BadRequestError("Request payload not found")
        if not isinstance(payload, dict):
            raise _unreadable("it is not a JSON object")
        self._fields = {str(name).lower(): value for name, value in payload.items()}

    def get(self, name: str) -> Any:
        return self._fields.get(name.lower())

    def text(self, name: str) -> str:
        value = self.get(name)
        if not isinstance(value, str) or not value.strip():
            raise _unreadable(f"{name} is null or whitespace.")
        return value

    def number(self, name: str) -> int | None:
        value = self.get(name)
        if value is not None and (type(value) is not int or not 0 <= value <= _MOST):
            raise _unreadable(f"{name} is not a whole number up to {_MOST}")
        return value

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """Return what was chosen; the first of the choices where nothing was."""
        value = self.get(name)
        if value is None:
            return choices[0]
        if not isinstance(value, str) or value.lower() not in choices:
            raise _unreadable(f"{name} is none of {', '.join(choices)}")
        return value.lower()

    def moment(self, name: str, now: datetime) -> datetime | None:
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise _unreadable(f"{name} is not a string")
        try:
            return read_moment(value, now)
        except ValueError as error:
            raise _unreadable(f"{name}: {error}") from None

    def check_version(self, what: str) -> None:
        found = self.text("schemaVersion")
        match = _VERSION(found)
        if match is None:
            raise VersionError(f"Invalid {what} version {found}")
        if int(match[1]) != 1:
            raise VersionError(
                f"The {what} version {found} is not compatible with the expected version 1.0"
            )
