"""What jobs have done to devices: the collection `devices.jobs` of queries (hub-service.md 1.8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, cast

import msgspec
from msgspec import UNSET, Struct, UnsetType

from muster.hub.query_schema import JOBS
from muster.language.sql import compile_condition
from muster.model.identity import wire_time
from muster.store.engine import Query

if TYPE_CHECKING:
    from muster.language.tree import Expression
    from muster.store.engine import Engine

_Columns: TypeAlias = tuple[
    int, str, str, str, str, str, float, float, float, float, str | None, str | None
]


_PAGE: Final = (
    "SELECT v.number, v.device_id, v.module_id, v.job_id, v.type, v.status, v.created_at, "
    "v.started_at, v.ended_at, v.updated_at, v.outcome, v.error FROM device_jobs v "
    "WHERE {}v.hub = :hub AND v.number > :after AND v.type NOT IN ('import', 'export') AND {} "
    "ORDER BY v.number LIMIT :limit"
)


class DeviceJob(Struct, rename="camel", kw_only=True, omit_defaults=True):
    """One device of one job."""

    device_id: str
    module_id: str | UnsetType = UNSET
    job_id: str
    job_type: str
    status: str
    start_time_utc: str
    end_time_utc: str | UnsetType = UNSET
    created_date_time_utc: str
    last_updated_date_time_utc: str
    outcome: msgspec.Raw | UnsetType = UNSET
    error: msgspec.Raw | UnsetType = UNSET


class DeviceJobPage(NamedTuple):
    """A page of them.

    Attributes:
        rows: in the order in which jobs chose them.
        next: where the next page starts; `None` on the last one.
    """

    rows: list[DeviceJob]
    next: int | None


async def page(
    engine: Engine, hub: int, condition: Expression, after: int, limit: int
) -> DeviceJobPage:
    """Return a page of what jobs of a hub have done to devices.

    Args:
        engine: where it is kept.
        hub: the hub's number.
        condition: chooses.
        after: `next` of the page before; 0 for the first.
        limit: rows of a page at most.

    Raises:
        InvalidArgumentError: the condition is too long; code `invalid-query`.
    """
    compiled = compile_condition(condition, JOBS)
    # Without an equality, rows are best read as they lie; the plus keeps the index of a hub away.
    plus = "" if compiled.lookups else "+"
    query = Query("jobs.devices", _PAGE.format(plus, compiled.sql), scan=True)
    params = {**compiled.params, "hub": hub, "after": after, "limit": limit + 1}
    rows = await engine.read(query, params)
    shown = [_shown(cast("_Columns", row)) for row in rows[:limit]]
    return DeviceJobPage(shown, cast("int", rows[limit - 1][0]) if len(rows) > limit else None)


def _shown(row: _Columns) -> DeviceJob:
    _, device_id, module_id, job_id, kind, status, created, started, ended, updated = row[:10]
    outcome, error = row[10:]
    return DeviceJob(
        device_id=device_id,
        module_id=module_id or UNSET,
        job_id=job_id,
        job_type=kind,
        status=status,
        start_time_utc=wire_time(started),
        end_time_utc=wire_time(ended) if ended else UNSET,
        created_date_time_utc=wire_time(created),
        last_updated_date_time_utc=wire_time(updated),
        outcome=msgspec.Raw(outcome.encode()) if outcome else UNSET,
        error=msgspec.Raw(error.encode()) if error else UNSET,
    )
