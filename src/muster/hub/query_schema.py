"""Where the members of twins, as the service shows them, stand in the database.

Conditions compiled with `DEVICES` or `MODULES` go into statements over `twins t` with the `JOINS`
of the tables they mention (`Compiled.tables`). What is here must agree with `twins.ServiceTwin`.
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Final

from muster.language.sql import Document, Scalar, Single
from muster.language.values import Kind
from muster.model.identity import NEVER_TEXT, device_scope

if TYPE_CHECKING:
    from muster.language.sql import Column, Schema

JOINS: Final = {
    "d": "JOIN devices d ON d.hub = t.hub AND d.device_id = t.device_id",
    "m": (
        "JOIN modules m "
        "ON m.hub = t.hub AND m.device_id = t.device_id AND m.module_id = t.module_id"
    ),
    "p": (
        "LEFT JOIN presence p "
        "ON p.hub = t.hub AND p.device_id = t.device_id AND p.module_id = t.module_id"
    ),
}
"""What a statement over `twins t` needs for each other alias."""

VOLATILE: Final = frozenset({"p"})
"""Tables that follow memory with a delay; see `Connections.write_down`."""

_MESSAGES: Final = (
    "(SELECT COUNT(*) FROM queued_messages q WHERE q.hub = t.hub AND q.device_id = t.device_id "
    "AND q.kind = 0 AND q.module_id = t.module_id)"
)
_BASE64: Final = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"


def _time(seconds: str) -> str:
    """Return SQL that writes unix seconds as `model.identity.wire_time` does."""
    whole = f"CAST({seconds} AS INTEGER)"
    microseconds = (
        f"({whole} * 1000000 + CAST(round(({seconds} - {whole}) * 1000000.0) AS INTEGER))"
    )
    return (
        f"CASE WHEN COALESCE({seconds}, 0) = 0 THEN '{NEVER_TEXT}' ELSE "
        f"strftime('%Y-%m-%dT%H:%M:%S', {microseconds} / 1000000, 'unixepoch') || "
        f"CASE WHEN {microseconds} % 1000000 = 0 THEN '' ELSE "
        f"'.' || rtrim(printf('%06d', {microseconds} % 1000000), '0') END || 'Z' END"
    )


def _etag(counter: str) -> str:
    """Return SQL that writes a counter as `model.twin.Twin.etag` does: 11 letters of 6 bits."""
    shifted = [f"({counter} >> {58 - 6 * place})" for place in range(10)] + [f"({counter} << 2)"]
    letters = (f"substr('{_BASE64}', ({bits} & 63) + 1, 1)" for bits in shifted)
    return " || ".join(letters) + " || '='"


def _section(name: str) -> dict[tuple[str | int, ...], Column]:
    path = ("properties", name)
    return {
        path: Document("t", name),
        (*path, "$version"): Scalar("t", f"t.{name}_version", Kind.NUMBER),
        (*path, "$metadata"): Document("t", f"{name}_metadata"),
    }


def _twin(identity: str) -> dict[tuple[str | int, ...], Column]:
    """Return what devices and modules have in common, by the alias of the identity's table."""
    return {
        ("deviceId",): Scalar("t", "t.device_id", Kind.STRING),
        ("etag",): Scalar("t", _etag("t.etag_counter"), Kind.STRING),
        ("deviceEtag",): Scalar(identity, f"{identity}.etag", Kind.STRING),
        ("status",): Scalar(
            "d", "CASE WHEN d.enabled THEN 'enabled' ELSE 'disabled' END", Kind.STRING
        ),
        ("statusUpdateTime",): Scalar("d", _time("d.status_updated_at"), Kind.STRING),
        ("connectionState",): Scalar(
            "p",
            "CASE WHEN p.connected_run = (SELECT max(id) FROM hub_runs) "
            "THEN 'Connected' ELSE 'Disconnected' END",
            Kind.STRING,
        ),
        ("lastActivityTime",): Scalar("p", _time("p.last_activity_at"), Kind.STRING),
        ("cloudToDeviceMessageCount",): Scalar("t", _MESSAGES, Kind.NUMBER),
        ("authenticationType",): Scalar(identity, f"{identity}.auth_type", Kind.STRING),
        ("x509Thumbprint", "primaryThumbprint"): Scalar(
            identity, f"{identity}.primary_thumbprint", Kind.STRING, null=True
        ),
        ("x509Thumbprint", "secondaryThumbprint"): Scalar(
            identity, f"{identity}.secondary_thumbprint", Kind.STRING, null=True
        ),
        ("modelId",): Scalar("t", "t.model_id", Kind.STRING),
        ("version",): Scalar("t", "t.version", Kind.NUMBER),
        ("tags",): Document("t", "tags"),
        ("configurations",): Document("t", "configurations"),
        **_section("desired"),
        **_section("reported"),
    }


_OWN_SCOPE: Final = device_scope("", "").removesuffix("-")

DEVICES: Final[Schema] = {
    **_twin("d"),
    ("statusReason",): Scalar("d", "d.status_reason", Kind.STRING, null=True),
    ("capabilities", "iotEdge"): Scalar("d", "d.iot_edge", Kind.BOOLEAN),
    ("deviceScope",): Scalar(
        "d",
        f"CASE WHEN d.iot_edge THEN '{_OWN_SCOPE}' || d.device_id || '-' || d.generation_id "
        "ELSE d.parent_scope END",
        Kind.STRING,
    ),
    ("parentScopes",): Single("d", "d.parent_scope"),
}
"""Twins of devices: rows of `twins` whose `module_id` is `''`."""

MODULES: Final[Schema] = {
    **_twin("m"),
    ("moduleId",): Scalar("t", "t.module_id", Kind.STRING),
}
"""Twins of modules: the other rows of `twins`."""

JOBS: Final[Schema] = {
    ("deviceId",): Scalar("v", "v.device_id", Kind.STRING),
    ("moduleId",): Scalar("v", "NULLIF(v.module_id, '')", Kind.STRING),
    ("jobId",): Scalar("v", "v.job_id", Kind.STRING),
    ("jobType",): Scalar("v", "v.type", Kind.STRING),
    ("status",): Scalar("v", "v.status", Kind.STRING),
    ("startTimeUtc",): Scalar("v", _time("v.started_at"), Kind.STRING),
    ("endTimeUtc",): Scalar(
        "v", f"CASE WHEN v.ended_at > 0 THEN {_time('v.ended_at')} END", Kind.STRING
    ),
    ("createdDateTimeUtc",): Scalar("v", _time("v.created_at"), Kind.STRING),
    ("lastUpdatedDateTimeUtc",): Scalar("v", _time("v.updated_at"), Kind.STRING),
    ("outcome",): Document("v", "outcome"),
    ("error",): Document("v", "error"),
}
"""What jobs have done to devices: rows of the view `device_jobs v`."""
