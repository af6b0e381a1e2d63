"""Identities and twins when several change them at once, and what they leave in the database."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING

import pytest

from muster.errors import ConflictError, MusterError, NotFoundError, PreconditionFailedError
from muster.hub.twins import TwinProperties, TwinRequest
from muster.model.identity import BulkEntry, DeviceRequest, IdentityRef, ModuleRequest
from unit.hub.hub_parts import KEY, own_keys

if TYPE_CHECKING:
    from pathlib import Path

    from unit.hub.hub_parts import Parts


async def test_of_many_creates_one_wins(parts: Parts) -> None:
    results = await asyncio.gather(
        *(parts.identities.create(parts.hub.id, "d1", DeviceRequest()) for _ in range(20)),
        return_exceptions=True,
    )
    assert sum(not isinstance(result, Exception) for result in results) == 1
    assert (await parts.identities.statistics(parts.hub.id)).total_device_count == 1


async def test_of_many_updates_with_one_etag_one_wins(parts: Parts) -> None:
    await parts.device()
    etag = (await parts.identities.get(parts.hub.id, "d1")).etag
    results = await asyncio.gather(
        *(
            parts.identities.update(parts.hub.id, "d1", DeviceRequest(status_reason=str(n)), etag)
            for n in range(10)
        ),
        return_exceptions=True,
    )
    assert sum(not isinstance(result, Exception) for result in results) == 1
    assert sum(isinstance(result, PreconditionFailedError) for result in results) == 9


async def test_unconditional_updates_start_over(parts: Parts) -> None:
    await parts.device()
    results = await asyncio.gather(
        *(
            parts.identities.update(parts.hub.id, "d1", DeviceRequest(status_reason=str(n)), "*")
            for n in range(5)
        ),
        return_exceptions=True,
    )
    assert all(not isinstance(r, Exception) or isinstance(r, ConflictError) for r in results)
    assert sum(not isinstance(r, Exception) for r in results) >= 1


async def test_changes_of_one_twin_all_count(parts: Parts) -> None:
    ref = await parts.device()
    await asyncio.gather(
        *(parts.twins.change(ref, TwinRequest({f"t{n}": n})) for n in range(15)),
        *(parts.twins.report(ref, {f"r{n}": n}) for n in range(15)),
        *(
            parts.twins.change(ref, TwinRequest(properties=TwinProperties({f"d{n}": n})))
            for n in range(15)
        ),
    )
    twin = await parts.twins.get(ref)
    assert twin.tags == {f"t{n}": n for n in range(15)}
    assert twin.properties["desired"]["$version"] == 16
    assert twin.properties["reported"]["$version"] == 16
    assert twin.version == 2 + 45
    assert len(parts.twins._lines) == 0


async def test_a_failed_change_leaves_no_trace(parts: Parts) -> None:
    ref = await parts.device()
    before = await parts.twins.get(ref)
    with pytest.raises(MusterError):
        await parts.twins.change(ref, TwinRequest({"ok": 1}, TwinProperties({"a.b": 1})))
    assert await parts.twins.get(ref) == before
    await parts.identities.delete(ref.hub, ref.device_id, "*")
    with pytest.raises(NotFoundError):
        await parts.twins.report(ref, {"a": 1})
    with pytest.raises(NotFoundError):
        await parts.twins.device_view(ref)
    with pytest.raises(NotFoundError):
        await parts.twins.device_view(IdentityRef(ref.hub, "d1", "m1"))


async def test_a_create_that_fails_writes_nothing(parts: Parts, tmp_path: Path) -> None:
    with pytest.raises(MusterError):
        await parts.identities.create(
            parts.hub.id, "d1", DeviceRequest(device_scope="ms-azure-iot-edge://nobody-1")
        )
    with pytest.raises(MusterError):
        await parts.modules.create(IdentityRef(parts.hub.id, "d1", "m1"), ModuleRequest())
    database = sqlite3.connect(tmp_path / "muster.db")
    for table in ("devices", "modules", "twins"):
        assert database.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


async def test_keys_are_sealed_for_their_identity_alone(parts: Parts, tmp_path: Path) -> None:
    await parts.device("d1")
    await parts.device("d2", authentication=None)
    database = sqlite3.connect(tmp_path / "muster.db", isolation_level=None)
    assert KEY not in "\n".join(database.iterdump())
    database.execute(
        "UPDATE devices SET keys = (SELECT keys FROM devices WHERE device_id = 'd1')"
        " WHERE device_id = 'd2'"
    )
    with pytest.raises(MusterError, match="does not open"):
        await parts.identities.get(parts.hub.id, "d2")


async def test_counts_stay_true(parts: Parts, tmp_path: Path) -> None:
    await parts.bulk.run(
        parts.hub.id,
        [BulkEntry(id=f"d{n}", status="disabled" if n % 3 else "enabled") for n in range(90)],
    )
    await parts.bulk.run(
        parts.hub.id,
        [BulkEntry(id=f"d{n}", import_mode="update", status="enabled") for n in range(50)],
    )
    await parts.bulk.run(
        parts.hub.id, [BulkEntry(id=f"d{n}", import_mode="delete") for n in range(40, 70)]
    )
    statistics = await parts.identities.statistics(parts.hub.id)
    database = sqlite3.connect(tmp_path / "muster.db")
    rows = dict(database.execute("SELECT enabled, count(*) FROM devices GROUP BY enabled"))
    assert (statistics.enabled_device_count, statistics.disabled_device_count) == (rows[1], rows[0])
    assert statistics.total_device_count == 60


async def test_pages_follow_each_other(parts: Parts) -> None:
    await parts.bulk.run(parts.hub.id, [BulkEntry(id=f"d{n:02}") for n in range(25)])
    found: list[str] = []
    while page := await parts.identities.page(parts.hub.id, 10, found[-1] if found else ""):
        found += [device.device_id for device in page]
    assert found == [f"d{n:02}" for n in range(25)]


async def test_presence_of_a_deleted_device_is_not_written(parts: Parts, tmp_path: Path) -> None:
    ref = await parts.device()
    await parts.connect(ref)
    await parts.identities.delete(ref.hub, "d1", "*")
    await parts.connections.tick()
    await parts.device(authentication=own_keys())
    again = await parts.identities.get(ref.hub, "d1")
    assert again.connection_state_updated_time.startswith("0001-01-01")
    database = sqlite3.connect(tmp_path / "muster.db")
    assert database.execute("SELECT count(*) FROM presence").fetchone() == (0,)
