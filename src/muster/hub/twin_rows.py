"""A twin as columns of the table `twins` and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import msgspec

from muster.model.twin import Twin, TwinSection
from muster.store.engine import Params, Row, Statement
from muster.store.queries import load

if TYPE_CHECKING:
    from muster.model.identity import IdentityRef
    from muster.store.engine import Engine

SQL: Final = load("twins")

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode

_NOTHING: Final = TwinSection({}, {}, 0)

_Columns: TypeAlias = tuple[int, int, int, str, str, str, int, str, str, int]
COLUMN_COUNT: Final = 10
"""Columns a twin takes at the start of a row: revision, version … reported_version."""


def key(ref: IdentityRef) -> dict[str, str | int]:
    """Return the parameters that name a row."""
    return {"hub": ref.hub, "device_id": ref.device_id, "module_id": ref.module_id}


def to_params(ref: IdentityRef, twin: Twin) -> dict[str, str | int | float | bytes | None]:
    """Return the parameters that write a twin."""
    return {
        "hub": ref.hub,
        "device_id": ref.device_id,
        "module_id": ref.module_id,
        "version": twin.version,
        "etag_counter": twin.etag_counter,
        "tags": _encode(twin.tags).decode(),
        "desired": _encode(twin.desired.properties).decode(),
        "desired_metadata": _encode(twin.desired.metadata).decode(),
        "desired_version": twin.desired.version,
        "reported": _encode(twin.reported.properties).decode(),
        "reported_metadata": _encode(twin.reported.metadata).decode(),
        "reported_version": twin.reported.version,
    }


def reported_from_columns(row: Row) -> tuple[Twin, int]:
    """Return a twin of which only what it reports is known, and its revision."""
    revision, version, properties, metadata, section_version = cast(
        "tuple[int, int, str, str, int]", row
    )
    section = TwinSection(_decode(properties), _decode(metadata), section_version)
    return Twin({}, _NOTHING, section, version, 0), revision


def reported_update(
    ref: IdentityRef, revision: int, twin: Twin
) -> tuple[int, str, str, int, str, str, int]:
    """Return what the statement `report` takes for one twin."""
    reported = twin.reported
    return (
        *ref,
        revision,
        _encode(reported.properties).decode(),
        _encode(reported.metadata).decode(),
        reported.version,
    )


async def read(engine: Engine, ref: IdentityRef) -> Twin | None:
    """Return a twin as it is stored, `None` when there is none."""
    rows = await engine.read(SQL["get"], key(ref))
    return from_columns(rows[0])[0] if rows else None


def insert(ref: IdentityRef, twin: Twin) -> Statement:
    """Return the step that stores the twin of a new identity."""
    params: Params = to_params(ref, twin)
    return Statement(SQL["insert"], params, expect=1)


def from_columns(row: Row) -> tuple[Twin, int]:
    """Return a twin and its revision from the first columns of a row."""
    columns = cast("_Columns", row[:COLUMN_COUNT])
    revision, version, etag_counter, tags, desired, desired_metadata, desired_version = columns[:7]
    reported, reported_metadata, reported_version = columns[7:]
    return (
        Twin(
            _decode(tags),
            TwinSection(_decode(desired), _decode(desired_metadata), desired_version),
            TwinSection(_decode(reported), _decode(reported_metadata), reported_version),
            version,
            etag_counter,
        ),
        revision,
    )
