"""What many devices report at once: each of them as if it were alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from muster.errors import (
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    PreconditionFailedError,
    UnavailableError,
)
from muster.hub import reports, twin_rows
from muster.hub.changes import TwinChanged
from muster.model import twin as twin_rules
from muster.model.identity import IdentityRef
from muster.store.engine import Statement

if TYPE_CHECKING:
    from muster.hub.changes import Change
    from unit.hub.hub_parts import Parts

COUNT = reports.BATCH + 20
"""More than one batch takes."""


async def _devices(parts: Parts, count: int = COUNT) -> list[IdentityRef]:
    return [await parts.device(f"d{number}") for number in range(count)]


async def test_many_at_once_are_each_written_and_told(parts: Parts) -> None:
    refs = await _devices(parts)
    refs[1] = await parts.module("d1", "m")
    heard: list[Change] = []
    parts.changes.subscribe(heard.append)
    before = {ref: await twin_rows.read(parts.engine, ref) for ref in refs}
    patches: list[dict[str, Any]] = [
        {"n": number, "odd": 'a "quoted" \u0000 \u00e9 name', "in": {"x": None, "y": [1.0, True]}}
        for number in range(COUNT)
    ]
    versions = await asyncio.gather(
        *(parts.twins.report(ref, patch) for ref, patch in zip(refs, patches, strict=True))
    )
    for ref, patch, version in zip(refs, patches, versions, strict=True):
        old = before[ref]
        assert old is not None
        expected = twin_rules.patch_reported(old, patch, parts.clock.now())
        assert await twin_rows.read(parts.engine, ref) == expected
        assert version == expected.reported.version
    told = [each for each in heard if isinstance(each, TwinChanged)]
    assert [each.ref for each in told] == refs
    for change, patch in zip(told, patches, strict=True):
        after = await twin_rows.read(parts.engine, change.ref)
        assert after is not None
        assert change.reported is not None
        assert (change.version, change.reported.section) == (after.version, after.reported)
        assert change.reported.written == patch


async def test_reports_of_one_device_keep_their_order(parts: Parts) -> None:
    refs = await _devices(parts, 2)
    versions = await asyncio.gather(
        *(parts.twins.report(refs[number % 2], {"n": number}) for number in range(20))
    )
    assert versions == [2 + number // 2 for number in range(20)]
    for number, ref in enumerate(refs):
        twin = await twin_rows.read(parts.engine, ref)
        assert twin is not None
        assert twin.reported.properties == {"n": 18 + number}


async def test_one_mistake_does_not_touch_the_others(parts: Parts) -> None:
    refs = await _devices(parts, 6)
    hub = parts.hub.id
    results = await asyncio.gather(
        parts.twins.report(refs[0], {"n": 0}),
        parts.twins.report(refs[1], {"n": 1}, 7),
        parts.twins.report(refs[2], {"a.b": 2}),
        parts.twins.report(IdentityRef(hub, "nobody"), {"n": 3}),
        parts.twins.report(IdentityRef(hub, "d4", "nothing"), {"n": 4}),
        parts.twins.report(refs[5], {"n": "\ud800"}),
        parts.twins.report(refs[3], {"n": 5}, 1),
        return_exceptions=True,
    )
    assert (results[0], results[6]) == (2, 2)
    kinds = [PreconditionFailedError, InvalidArgumentError, NotFoundError, NotFoundError]
    assert [type(each) for each in results[1:5]] == kinds
    assert isinstance(results[5], Exception)
    codes = [getattr(each, "code", "") for each in results[1:5]]
    assert codes == ["version-mismatch", "invalid-twin-key", "device-not-found", "module-not-found"]


@pytest.mark.parametrize("times", [1, 1_000])
async def test_somebody_else_writes_one_of_the_twins_meanwhile(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    refs = await _devices(parts, 5)
    read, left = parts.engine.read, times

    async def reading(query: Any, params: Any) -> Any:
        nonlocal left
        rows = await read(query, params)
        if query.name == "twins.get_reported" and left and '"d3"' in params["refs"]:
            left -= 1
            await parts.engine.write(
                Statement(twin_rows.SQL["set_model"], {**twin_rows.key(refs[3]), "model_id": ""})
            )
        return rows

    monkeypatch.setattr(parts.engine, "read", reading)
    results = await asyncio.gather(
        *(parts.twins.report(ref, {"n": 1}) for ref in refs), return_exceptions=True
    )
    assert [each for at, each in enumerate(results) if at != 3] == [2, 2, 2, 2]
    if times == 1:
        assert results[3] == 2
    else:
        assert isinstance(results[3], ConflictError)
        assert results[3].code == "concurrent-update"


async def test_who_gives_up_holds_nobody_up(parts: Parts) -> None:
    refs = await _devices(parts, 4)
    tasks = [asyncio.ensure_future(parts.twins.report(ref, {"n": 1})) for ref in refs]
    await asyncio.sleep(0)
    tasks[0].cancel()
    again = asyncio.ensure_future(parts.twins.report(refs[0], {"n": 2}))
    assert await asyncio.gather(*tasks[1:]) == [2, 2, 2]
    await again
    twin = await twin_rows.read(parts.engine, refs[0])
    assert twin is not None
    assert twin.reported.properties == {"n": 2}


async def test_everybody_hears_that_the_store_does_not_answer(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = await _devices(parts, 3)

    async def writing(*_: Statement) -> None:
        raise UnavailableError("The disk is full", code="store-unavailable")

    monkeypatch.setattr(parts.engine, "write", writing)
    results = await asyncio.gather(
        *(parts.twins.report(ref, {"n": 1}) for ref in refs), return_exceptions=True
    )
    assert [type(each) for each in results] == [UnavailableError] * 3
    monkeypatch.undo()
    assert await parts.twins.report(refs[0], {"n": 1}) == 2
