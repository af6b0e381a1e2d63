"""Queries over REST and inside (hub-service.md 1.6, 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from muster.errors import InvalidArgumentError
from muster.hub import query_indexes
from muster.hub.query_statements import TwinSource
from muster.language import collections
from muster.language.conditions import Condition, parse_job
from muster.language.evaluate import matches
from muster.language.tree import Comparison, Constant, Path
from muster.model import paging
from muster.model.identity import IdentityRef
from muster.store.engine import Query
from unit.hub.hub_rest import Rest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from unit.hub.hub_parts import Parts


async def tag(rest: Rest, place: str, tags: dict[str, Any], **desired: Any) -> None:
    body = {"tags": tags, "properties": {"desired": desired}}
    await rest.must("PATCH", f"/twins/{place}", body)


async def fleet(parts: Parts, rest: Rest) -> list[IdentityRef]:
    """Devices and modules that differ in everything a twin shows."""
    refs = [await parts.device("edge", edge=True)]
    scope = (await rest.must("GET", "/devices/edge"))["deviceScope"]
    refs.append(await parts.device("leaf", device_scope=scope, status="disabled"))
    await rest.must(
        "PUT",
        "/devices/leaf",
        {"deviceId": "leaf", "status": "disabled", "statusReason": "broken", "deviceScope": scope},
        if_match="*",
    )
    refs += [await parts.device(f"d{number}") for number in range(3)]
    refs += [await parts.module("d0", "m1"), await parts.module("edge", "m2")]
    refs += [refs[0]._replace(module_id=name) for name in ("$edgeAgent", "$edgeHub")]
    await tag(rest, "d0", {"site": "a", "line": 5, "on": True, "more": {"x-y": [1, "b"]}}, mode="x")
    await tag(rest, "d1", {"site": "a", "line": 6, "on": "true"})
    parts.clock.advance(12.5)
    await tag(rest, "edge/modules/m2", {"site": "a"}, level=1.5)
    client = await parts.connect(refs[2], clean=True)
    await parts.twins.report(refs[2], {"firmware": {"version": "1.2"}})
    parts.clock.advance(3.000001)
    await (await parts.connect(refs[3])).vanish()
    await parts.connect(refs[5])
    parts.clock.advance(1)
    client.publish("devices/d0/messages/events/")
    await client.take()
    return refs


def leaves(document: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[Path, Any]]:
    match document:
        case dict():
            for name, value in document.items():
                yield from leaves(value, (*path, name))
        case list():
            for place, value in enumerate(document):
                # `parentScopes[0]` has no column of its own.
                if path != ("parentScopes",):
                    yield from leaves(value, (*path, place))
        case _:
            yield Path(path), document


async def test_every_member_of_a_twin_can_be_asked_for(parts: Parts, rest: Rest) -> None:
    refs = await fleet(parts, rest)
    twins = {ref: msgspec.to_builtins(await parts.twins.get(ref)) for ref in refs}
    asked = 0
    for collection in (collections.DEVICES, collections.MODULES):
        own = {
            ref: twin
            for ref, twin in twins.items()
            if bool(ref.module_id) is (collection is collections.MODULES)
        }
        for path, value in {leaf for twin in own.values() for leaf in leaves(twin)}:
            for symbol in ("=", "!="):
                condition = Comparison(symbol, path, Constant(value))
                found = await parts.queries.matches(parts.hub.id, Condition(collection, condition))
                expected = [ref for ref, twin in own.items() if matches(condition, twin)]
                assert sorted(found.refs) == sorted(expected), (path, symbol, value)
                asked += bool(expected)
    assert asked > 100


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ("true", ["edge", "leaf", "d0", "d1", "d2"]),
        ("connectionState = 'Connected'", ["d0"]),
        ("lastActivityTime > '2023-11-14T22:13:36'", ["d0"]),
        ("tags.site = 'a'", ["d0", "d1"]),
        ("tags.site = 'a' AND tags.line > 5", ["d1"]),
        ("tags.on = true", ["d0"]),
        ("is_defined(tags.more.[[x-y]])", ["d0"]),
        ("array_contains(tags.more.[[x-y]], 'b')", ["d0"]),
        ("deviceId IN ['d1', 'd2', 'dx']", ["d1", "d2"]),
        ("startswith(devices.deviceId, 'd')", ["d0", "d1", "d2"]),
        ("capabilities.iotEdge = true", ["edge"]),
        ("IS_NULL(statusReason)", ["edge", "d0", "d1", "d2"]),
        ("properties.desired.$version > 1", ["d0", "d1"]),
        ("is_defined(properties.reported.$metadata.firmware)", ["d0"]),
        ("is_object(capabilities) AND is_object(properties.reported.firmware)", ["d0"]),
        ("configurations.[[c12]].status = 'Applied'", []),
    ],
)
async def test_conditions(parts: Parts, rest: Rest, condition: str, found: list[str]) -> None:
    await fleet(parts, rest)
    page = await parts.queries.matches(parts.hub.id, parse_job(condition))
    assert [ref.device_id for ref in page.refs] == found
    assert await parts.queries.count(parts.hub.id, parse_job(condition)) == len(found)


async def test_children(parts: Parts, rest: Rest) -> None:
    await fleet(parts, rest)
    scope = (await rest.must("GET", "/devices/edge"))["deviceScope"]
    text = f"select deviceId from devices where array_contains(parentScopes, '{scope}')"
    assert await rest.must("POST", "/devices/query", {"query": text}) == [{"deviceId": "leaf"}]


async def test_select_all_shows_what_get_shows(parts: Parts, rest: Rest) -> None:
    refs = await fleet(parts, rest)
    reply = await rest.call("POST", "/devices/query", {"query": "select * from devices"})
    assert reply.status == 200
    assert reply.headers["x-ms-item-type"] == "Twin"
    assert "x-ms-continuation" not in reply.headers
    devices = [ref for ref in refs if not ref.module_id]
    assert reply.json == [await rest.must("GET", f"/twins/{ref.device_id}") for ref in devices]
    modules = await rest.must("POST", "/devices/query", {"query": "select * from devices.modules"})
    shown = {(each["deviceId"], each["moduleId"]): each for each in modules}
    for ref in refs:
        if ref.module_id:
            place = f"/twins/{ref.device_id}/modules/{ref.module_id}"
            assert shown.pop(ref[1:]) == await rest.must("GET", place)
    assert not shown


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("SELECT DeviceId FROM devices WHERE tags.line = 5", [{"deviceId": "d0"}]),
        (
            (
                "SELECT deviceId AS id, tags.line, tags.on, tags.more, tags.none, statusReason "
                "FROM devices WHERE tags.site = 'a'"
            ),
            [
                {
                    "id": "d0",
                    "line": 5,
                    "on": True,
                    "more": {"x-y": [1, "b"]},
                    "statusReason": None,
                },
                {"id": "d1", "line": 6, "on": "true", "statusReason": None},
            ],
        ),
        (
            "SELECT capabilities, properties.reported, parentScopes FROM devices WHERE tags.line=6",
            [
                {
                    "capabilities": {"iotEdge": False},
                    "reported": {
                        "$metadata": {"$lastUpdated": "0001-01-01T00:00:00Z"},
                        "$version": 1,
                    },
                    "parentScopes": [],
                }
            ],
        ),
        (
            "SELECT tags.site AS site, COUNT() AS n FROM devices GROUP BY tags.site",
            [{"n": 3}, {"site": "a", "n": 2}],
        ),
        (
            (
                "SELECT COUNT() AS n, AVG(tags.line), MIN(tags.line), MAX(tags.line), "
                "SUM(tags.line) FROM devices"
            ),
            [{"n": 5, "avg": 5.5, "min": 5, "max": 6, "sum": 11}],
        ),
        ("SELECT COUNT() AS n, SUM(tags.none) FROM devices WHERE false", [{"n": 0}]),
        (
            "SELECT status, COUNT() AS n FROM devices GROUP BY status",
            [{"status": "disabled", "n": 1}, {"status": "enabled", "n": 4}],
        ),
        ("SELECT tags.on FROM devices GROUP BY tags.on", [{}, {"on": "true"}, {"on": True}]),
        ("SELECT moduleId FROM devices.modules WHERE tags.site = 'a'", [{"moduleId": "m2"}]),
        ("SELECT TOP 2 deviceId FROM devices", [{"deviceId": "edge"}, {"deviceId": "leaf"}]),
        ("SELECT TOP 2 COUNT() AS n FROM devices GROUP BY deviceId", [{"n": 1}, {"n": 1}]),
        ("SELECT foo FROM devices WHERE deviceId = 'd0'", [{}]),
    ],
)
async def test_raw_results(parts: Parts, rest: Rest, query: str, rows: list[Any]) -> None:
    await fleet(parts, rest)
    reply = await rest.call("POST", "/devices/query", {"query": query})
    assert reply.status == 200
    assert reply.headers["x-ms-item-type"] == "Raw"
    assert "x-ms-continuation" not in reply.headers
    assert reply.json == rows


async def test_jobs_of_devices(rest: Rest) -> None:
    query = {"query": "SELECT * FROM devices.jobs WHERE jobId = 'j1'"}
    reply = await rest.call("POST", "/devices/query", query)
    assert (reply.json, reply.headers["x-ms-item-type"]) == ([], "DeviceJob")


async def pages(rest: Rest, query: str, size: int) -> list[list[Any]]:
    found: list[list[Any]] = []
    headers = {"x-ms-max-item-count": str(size)}
    while True:
        reply = await rest.call("POST", "/devices/query", {"query": query}, headers=headers)
        assert reply.status == 200
        found.append(reply.json)
        if "x-ms-continuation" not in reply.headers:
            return found
        headers["x-ms-continuation"] = reply.headers["x-ms-continuation"]


@pytest.mark.parametrize("items", ["deviceId", "*", "deviceId, capabilities"])
async def test_pages(parts: Parts, rest: Rest, items: str) -> None:
    for number in range(7):
        await parts.device(f"d{number}")
    found = await pages(rest, f"SELECT {items} FROM devices", 3)
    assert [[row["deviceId"] for row in page] for page in found] == [
        ["d0", "d1", "d2"],
        ["d3", "d4", "d5"],
        ["d6"],
    ]
    assert [len(page) for page in await pages(rest, f"SELECT TOP 6 {items} FROM devices", 3)] == [
        3,
        3,
    ]
    assert [len(page) for page in await pages(rest, f"SELECT TOP 4 {items} FROM devices", 3)] == [
        3,
        1,
    ]
    groups = await pages(rest, "SELECT deviceId FROM devices GROUP BY deviceId", 3)
    assert [len(page) for page in groups] == [3, 3, 1]


async def test_a_continuation_survives_changes(parts: Parts, rest: Rest) -> None:
    for number in range(6):
        await parts.device(f"d{number}")
    query = {"query": "SELECT deviceId FROM devices"}
    reply = await rest.call("POST", "/devices/query", query, headers={"x-ms-max-item-count": "3"})
    await parts.identities.delete(parts.hub.id, "d1", "*")
    await parts.identities.delete(parts.hub.id, "d4", "*")
    await tag(rest, "d0", {"a": 1})
    await tag(rest, "d5", {"a": 1})
    await parts.device("a-late-one")
    headers = {"x-ms-continuation": reply.headers["x-ms-continuation"]}
    rest_of_it = await rest.call("POST", "/devices/query", query, headers=headers)
    assert [row["deviceId"] for row in rest_of_it.json] == ["d3", "d5", "a-late-one"]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"query": ""}, {}),
        ({"query": "SELECT * FROM devices WHERE"}, {}),
        ({"query": "SELECT properties, COUNT() FROM devices GROUP BY properties"}, {}),
        # More than the database takes.
        ({"query": f"SELECT {', '.join(['a'] * 1_100)} FROM devices"}, {}),
        ({"query": f"SELECT COUNT() FROM devices GROUP BY {', '.join(['a'] * 1_100)}"}, {}),
        ({"query": f"SELECT * FROM devices WHERE CONCAT({', '.join(['a'] * 1_100)}) = ''"}, {}),
        ({"query": "SELECT * FROM devices"}, {"x-ms-max-item-count": "many"}),
        ({"query": "SELECT * FROM devices"}, {"x-ms-continuation": "?"}),
        ({"query": "SELECT * FROM devices"}, {"x-ms-continuation": paging.token("5/5")}),
        ({"query": "SELECT TOP 5 * FROM devices"}, {"x-ms-continuation": paging.token("5")}),
    ],
)
async def test_refusals(rest: Rest, body: Any, headers: dict[str, str]) -> None:
    reply = await rest.call("POST", "/devices/query", body, headers=headers)
    assert reply.error == (400, "ArgumentInvalid")


async def test_a_refusal_names_the_position(rest: Rest) -> None:
    reply = await rest.call("POST", "/devices/query", {"query": "SELECT * FROM device"})
    assert reply.json["Message"] == (
        "ErrorCode:ArgumentInvalid;Syntax error at position 15: expected one of devices, "
        "devices.modules, devices.jobs, found 'device'."
    )


async def test_a_body_without_a_query(rest: Rest) -> None:
    assert (await rest.call("POST", "/devices/query", {})).status == 400


@pytest.mark.parametrize(
    ("policy", "status"),
    [("service", 200), ("registryRead", 200), ("registryReadWrite", 200), ("device", 401)],
)
async def test_rights(rest: Rest, policy: str, status: int) -> None:
    query = {"query": "SELECT * FROM devices"}
    assert (await rest.call("POST", "/devices/query", query, policy=policy)).status == status


async def test_other_hubs_are_not_seen(parts: Parts) -> None:
    await parts.device("mine")
    other = await parts.hubs.create("other.example")
    for text in ("*", "deviceId = 'mine'", "tags.a = 1"):
        assert (await parts.queries.matches(other.id, parse_job(text))).refs == []


async def plan(parts: Parts, text: str) -> tuple[bool, bool]:
    """Tell whether a query has an index of its own, and whether it is found directly."""
    condition = parse_job(text)
    source = TwinSource(parts.hub.id, condition.collection, condition.expression)
    source = await parts.queries._prepare(source)
    return source.indexed, source.found_directly


async def indexes(parts: Parts) -> list[str]:
    query = "SELECT sql FROM sqlite_master WHERE name LIKE 'twins_by_%' ORDER BY sql"
    rows = await parts.engine.read(Query("test", query), {})
    return [str(row[0]).partition("twins (hub, ")[2] for row in rows]


async def test_saved_conditions_have_their_indexes(parts: Parts, rest: Rest) -> None:
    await fleet(parts, rest)
    conditions = [
        parse_job("tags.line = 5 AND tags.site = 'a' AND tags.n > 1"),
        parse_job("tags.site = 'a' AND tags.line = 6"),
        parse_job("FROM devices.modules WHERE moduleId = '$edgeAgent' AND tags.site = 'a'"),
        parse_job("deviceId = 'd1'"),
        parse_job("*"),
    ]
    line, site = """json_extract(tags, '$."line"')""", """json_extract(tags, '$."site"')"""
    await parts.query_indexes.keep(conditions)
    assert await indexes(parts) == [
        f"{line}, {site}) WHERE module_id = ''",
        f"{site}, module_id) WHERE module_id <> ''",
    ]
    assert await plan(parts, "tags.line = 5 AND tags.site = 'a'") == (True, False)
    assert await plan(parts, "tags.site = 'a'") == (False, False)
    assert await plan(parts, "deviceId = 'd1'") == (False, True)
    found = await parts.queries.matches(parts.hub.id, conditions[1])
    assert [ref.device_id for ref in found.refs] == ["d1"]
    again = query_indexes.QueryIndexes(parts.engine)
    await again.open()
    await again.keep(conditions[:2])
    assert len(await indexes(parts)) == 1
    await again.keep([])
    assert await indexes(parts) == []


async def test_queries_that_are_asked_again_get_an_index(
    parts: Parts, rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fleet(parts, rest)
    query = "SELECT deviceId FROM devices WHERE tags.site = 'a'"
    for _ in range(5):
        assert len(await rest.must("POST", "/devices/query", {"query": query})) == 2
    assert await indexes(parts) == []
    monkeypatch.setattr(query_indexes, "MIN_DEVICES", 1)
    monkeypatch.setattr(query_indexes, "MAX_ASKED", 2)
    await rest.must("POST", "/devices/query", {"query": query})
    assert len(await indexes(parts)) == 1
    for name in ("b", "c"):
        for _ in range(3):
            await rest.must("POST", "/devices/query", {"query": query.replace("site", name)})
        assert len(await rest.must("POST", "/devices/query", {"query": query})) == 2
    # The one that was used last stayed.
    assert any('"site"' in sql for sql in await indexes(parts))
    assert len(await indexes(parts)) == 2


async def test_conditions_of_jobs_in_pages(parts: Parts) -> None:
    for number in range(5):
        await parts.device(f"d{number}")
    first = await parts.queries.matches(parts.hub.id, parse_job("*"), limit=3)
    assert [ref.device_id for ref in first.refs] == ["d0", "d1", "d2"]
    assert first.next is not None
    second = await parts.queries.matches(parts.hub.id, parse_job("*"), first.next, 3)
    assert ([ref.device_id for ref in second.refs], second.next) == (["d3", "d4"], None)


async def test_the_most_complex_condition(parts: Parts) -> None:
    await parts.device("d0")
    text = " OR ".join(["tags.a = tags.b"] * 400)
    page = await parts.queries.matches(parts.hub.id, parse_job(text))
    assert page.refs == []
    doubling = parse_job("(" * 20 + "tags.a = tags.b" + ") = (tags.a = tags.b)" * 20)
    with pytest.raises(InvalidArgumentError, match="too complex"):
        await parts.queries.matches(parts.hub.id, doubling)
