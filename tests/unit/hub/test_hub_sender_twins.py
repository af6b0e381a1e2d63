"""Twins in memory for routes: never older than what was written before."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from muster.hub.changes import SectionChange, TwinChanged
from muster.hub.sender_twins import SenderTwins
from muster.hub.twins import TwinProperties, TwinRequest
from muster.model.identity import ANY, DeviceRequest, IdentityRef
from muster.model.twin import TwinSection

if TYPE_CHECKING:
    from unit.hub.hub_parts import Parts


async def test_a_twin_follows_its_changes(parts: Parts) -> None:
    twins = SenderTwins(parts.engine, parts.changes)
    ref = await parts.device("d1")
    assert not twins.knows(ref)
    assert await twins.load(ref) == twins.get(ref)
    patch = TwinRequest({"site": "a"}, TwinProperties({"x": 1}))
    stored = await parts.twins.change(ref, patch)
    found = twins.get(ref)
    assert found is not None
    assert (found["tags"], found["properties"]) == (stored.tags, stored.properties)
    assert (found["etag"], found["version"]) == (stored.etag, stored.version)
    await parts.identities.update(ref.hub, "d1", DeviceRequest(status_reason="x"), ANY)
    assert twins.get(ref) is found
    # Whoever does not say what the twin is makes us look again.
    parts.changes.publish(TwinChanged(ref, 9))
    assert not twins.knows(ref)


async def test_a_twin_follows_what_its_device_reports(parts: Parts) -> None:
    twins = SenderTwins(parts.engine, parts.changes)
    ref = await parts.device("d1")
    await parts.twins.change(ref, TwinRequest({"site": "a"}, TwinProperties({"x": 1})))
    await twins.load(ref)
    for patch in ({"a": {"b": 1}, "c": 2}, {"c": None, "d": 3}):
        await parts.twins.report(ref, patch)
        assert twins.knows(ref)
        followed = twins.get(ref)
        assert followed == await SenderTwins(parts.engine, parts.changes).load(ref)
    # What skips a version tells that something was not heard of.
    reported = SectionChange({"e": 1}, TwinSection({"e": 1}, {}, 9))
    parts.changes.publish(TwinChanged(ref, 9, reported=reported))
    assert not twins.knows(ref)


async def test_a_device_takes_its_modules_along(parts: Parts) -> None:
    twins = SenderTwins(parts.engine, parts.changes)
    ref = await parts.device("d1")
    module, other = await parts.module("d1", "m1"), await parts.module("d1", "m2")
    for each in (ref, module, other):
        await twins.load(each)
    await parts.modules.delete(module, ANY)
    assert (twins.knows(module), twins.knows(other)) == (False, True)
    await parts.identities.delete(ref.hub, "d1", ANY)
    assert not any(map(twins.knows, (ref, module, other)))
    assert await twins.load(ref) is None
    assert twins.knows(ref)


async def test_reads_and_changes_at_once_end_with_the_truth(parts: Parts) -> None:
    twins = SenderTwins(parts.engine, parts.changes)
    ref = await parts.device("d1")
    for turn in range(30):
        reads = [asyncio.ensure_future(twins.load(ref)) for _ in range(3)]
        for _ in range(turn % 5):
            await asyncio.sleep(0)
        await parts.twins.change(ref, TwinRequest({"n": turn}))
        reads.append(asyncio.ensure_future(twins.load(ref)))
        await asyncio.gather(*reads)
        found = twins.get(ref)
        assert found is not None
        assert found["tags"] == {"n": turn}


async def test_only_so_many_are_kept(parts: Parts) -> None:
    twins = SenderTwins(parts.engine, parts.changes, limit=2)
    refs = [IdentityRef(parts.hub.id, f"d{number}") for number in range(3)]
    for ref in refs:
        assert await twins.load(ref) is None
    assert list(map(twins.knows, refs)) == [False, True, True]
