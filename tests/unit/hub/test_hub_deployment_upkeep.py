"""Deployments and configurations: races, how they are managed and explained, what goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
from types import NoneType
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from muster.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    PreconditionFailedError,
    UnavailableError,
)
from muster.hub import setbacks, twin_rows
from muster.hub.configurations import Configurations, etag
from muster.hub.twins import TwinRequest
from muster.model.configuration import Configuration, ConfigurationRequest, Content, Queries
from muster.model.identity import EDGE_AGENT, IdentityRef
from muster.store.engine import Statement
from unit.hub.deployment_parts import DESIRED, Deploying, base, layer, module

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence


# Races and restarts.


async def test_somebody_else_writes_the_twin_meanwhile(
    deploying: Deploying, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deploying.edge("e1")
    await deploying.edge("e2")
    read = deploying.parts.engine.read
    disturbed = False

    async def reading(query: Any, params: Any) -> Any:
        nonlocal disturbed
        rows = await read(query, params)
        if query.name == "configurations.twins" and not disturbed:
            disturbed = True
            agent = IdentityRef(deploying.parts.hub.id, "e2", "$edgeAgent")
            await deploying.parts.engine.write(
                Statement(twin_rows.SQL["set_model"], {**twin_rows.key(agent), "model_id": ""})
            )
        return rows

    monkeypatch.setattr(deploying.parts.engine, "read", reading)
    await deploying.create("one", base())
    assert disturbed
    assert [await deploying.image(each) for each in ("e1", "e2")] == ["a:1", "a:1"]


async def test_the_pass_at_the_start_finds_what_nobody_heard_of(deploying: Deploying) -> None:
    await deploying.edge("e1", site="a")
    await deploying.create("one", base(), target_condition="tags.site = 'b'")
    again = Deploying(deploying.parts)
    await again.configurations.open()
    # As after a crash: the change was committed, and nobody got to act on it.
    await deploying.parts.twins.change(
        IdentityRef(deploying.parts.hub.id, "e1"), TwinRequest({"site": "b"})
    )
    again.convergence.sweep_all()
    await again.settle()
    assert await again.image() == "a:1"


# Managing them.


async def test_of_several_that_change_a_configuration_one_is_first(deploying: Deploying) -> None:
    hub, configurations = deploying.parts.hub, deploying.configurations
    made = await deploying.create("d1", base())

    def update(priority: int, if_match: str) -> Coroutine[Any, Any, Configuration]:
        request = ConfigurationRequest(priority=priority)
        return configurations.update(hub, "d1", request, if_match)

    async def outcomes(*calls: Coroutine[Any, Any, Any]) -> list[type]:
        ended = await asyncio.gather(*calls, return_exceptions=True)
        return sorted({type(each) for each in ended}, key=lambda each: each.__name__)

    with_etag = await outcomes(*(update(n, etag(made)) for n in range(5)))
    assert with_etag == [Configuration, PreconditionFailedError]
    assert configurations.get(hub.id, "d1").counter == made.counter + 1

    assert await outcomes(*(update(n, "*") for n in range(5))) == [Configuration]
    assert configurations.get(hub.id, "d1").counter == made.counter + 6

    deleted = await outcomes(*(configurations.delete(hub, "d1", "*") for _ in range(5)))
    assert deleted == [NoneType, NotFoundError]


async def test_create_update_delete(deploying: Deploying) -> None:
    hub, all_of = deploying.parts.hub, deploying.configurations
    made = await deploying.create("one", base(), priority=3, labels={"a": "b"})
    assert (etag(made), made.priority, made.schema_version) == ("MQ==", 3, "2.0")
    with pytest.raises(AlreadyExistsError) as exists:
        await all_of.create(hub, "one", ConfigurationRequest(content=base()))
    assert exists.value.code == "configuration-exists"
    with pytest.raises(PreconditionFailedError):
        await all_of.update(hub, "one", ConfigurationRequest(priority=4), '"Mg=="')
    changed = await all_of.update(
        hub, "one", ConfigurationRequest(content=base(), priority=4), '"MQ=="'
    )
    assert (changed.priority, changed.labels, etag(changed)) == (4, {"a": "b"}, "Mg==")
    with pytest.raises(InvalidArgumentError) as immutable:
        await all_of.update(hub, "one", ConfigurationRequest(content=base("a:9")), "*")
    assert immutable.value.code == "immutable-configuration-content"
    fresh = Configurations(deploying.parts.engine, deploying.parts.clock, deploying.targets)
    await fresh.open()
    assert fresh.all(hub.id) == [changed]
    with pytest.raises(PreconditionFailedError):
        await all_of.delete(hub, "one", '"MQ=="')
    await all_of.delete(hub, "one", None)
    with pytest.raises(NotFoundError) as missing:
        all_of.get(hub.id, "one")
    assert missing.value.code == "configuration-not-found"


@pytest.mark.parametrize("path", ["tags.a", DESIRED + ".", DESIRED + "..a", DESIRED + "a"])
async def test_a_path_that_is_none_is_told_what_one_is(deploying: Deploying, path: str) -> None:
    with pytest.raises(InvalidArgumentError, match="no part of them is empty") as refused:
        await deploying.create("x", Content(device_content={path: 1}))
    assert f"'{path}'" in refused.value.message


@pytest.mark.parametrize(
    ("name", "fields", "code"),
    [
        ("Upper", {}, "invalid-configuration-id"),
        ("a b", {}, "invalid-configuration-id"),
        ("a" * 129, {}, "invalid-configuration-id"),
        ("x", {"target_condition": "tags.a ="}, "invalid-target-condition"),
        ("x", {"target_condition": "FROM devices.modules WHERE a = 1"}, "invalid-target-condition"),
        ("x", {"priority": -1}, "invalid-argument"),
        ("x", {"metrics": Queries({"m": "SELEC"})}, "invalid-configuration-metric"),
        ("x", {"content": None}, "invalid-configuration-content"),
        ("x", {"content": Content()}, "invalid-configuration-content"),
        (
            "x",
            {"content": Content(device_content={}, module_content={})},
            "invalid-configuration-content",
        ),
        ("x", {"content": Content(device_content={})}, "invalid-configuration-content"),
        ("x", {"content": Content(device_content={"tags.a": 1})}, "invalid-configuration-content"),
        (
            "x",
            {"content": Content(device_content={f"{DESIRED}.a$b": 1})},
            "invalid-configuration-content",
        ),
        (
            # More than the database takes: it would hold up all others.
            "x",
            {"target_condition": f"CONCAT({', '.join(['tags.a'] * 1_000)}) = 'x'"},
            "invalid-target-condition",
        ),
        (
            # Together more than the desired properties of a twin.
            "x",
            {
                "content": Content(
                    device_content={f"{DESIRED}.a.k{n}": "v" * 4_000 for n in range(9)}
                )
            },
            "invalid-configuration-content",
        ),
        ("x", {"content": Content(modules_content={})}, "invalid-configuration-content"),
        (
            "x",
            {"content": Content(modules_content={"$edgeAgent": {DESIRED: {"modules": {}}}})},
            "invalid-configuration-content",
        ),
        (
            "x",
            {
                "content": layer(
                    agent={f"{DESIRED}.modules": {f"m{n}": module("i") for n in range(51)}}
                )
            },
            "invalid-configuration-content",
        ),
    ],
)
async def test_what_is_refused(
    deploying: Deploying, name: str, fields: dict[str, Any], code: str
) -> None:
    request = ConfigurationRequest(**{"content": base(), **fields})
    with pytest.raises(InvalidArgumentError) as refused:
        await deploying.configurations.create(deploying.parts.hub, name, request)
    assert refused.value.code == code
    assert deploying.configurations.all(deploying.parts.hub.id) == []


async def test_very_many_values_in_conditions(deploying: Deploying) -> None:
    await deploying.edge("e1", site="a")
    hub = deploying.parts.hub
    many = f"tags.site IN [{', '.join(map(str, range(1_400)))}]"
    # Together more than SQLite takes in one statement.
    conditions = [*[many] * 25, "tags.site = 'a'"]
    for number, condition in enumerate(conditions):
        request = ConfigurationRequest(content=base(), target_condition=condition)
        await deploying.configurations.create(hub, f"c{number}", request)
    found = await deploying.targets.matching(hub.id, ["e1"])
    assert found == {"e1": {"$edgeAgent": ["c25"]}}


async def test_one_that_cannot_be_applied_lets_the_others(
    deploying: Deploying, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deploying.edge()
    newcomers = deploying.targets.newcomers

    async def broken(hub: int, configuration_id: str, *others: Any) -> Any:
        if configuration_id == "broken":
            raise RuntimeError("as it may happen")
        return await newcomers(hub, configuration_id, *others)

    monkeypatch.setattr(deploying.targets, "newcomers", broken)
    hub = deploying.parts.hub
    await deploying.configurations.create(hub, "broken", ConfigurationRequest(content=base("a:1")))
    await deploying.configurations.create(
        hub, "sound", ConfigurationRequest(content=base("a:2"), target_condition="*")
    )
    with contextlib.suppress(RuntimeError):
        await deploying.settle()
    with contextlib.suppress(RuntimeError):
        await deploying.settle()
    assert await deploying.image() == "a:2"


# Why.


async def test_explanations(deploying: Deploying) -> None:
    await deploying.edge("e1", on="true", ring=1)
    await deploying.parts.device("leaf")
    hub, explain = deploying.parts.hub.id, deploying.explanations.explain
    await deploying.create("typed", base("a:1"), target_condition="tags.on = true", priority=1)
    why = await explain(hub, "typed", "e1")
    assert why.outcome == "not targeted"
    assert "string" in why.reasons[0].sentence
    assert "edge devices only" in (await explain(hub, "typed", "leaf")).summary
    await deploying.create("low", base("a:1"), priority=2)
    await deploying.create("high", base("a:2"), priority=5)
    await deploying.create("add", layer(agent={f"{DESIRED}.modules.b": module("b:1")}), priority=6)
    await deploying.create("under", layer(agent={f"{DESIRED}.modules.z": {}}), priority=1)
    lost = await explain(hub, "low", "e1")
    assert (lost.outcome, lost.remedy[-12:]) == ("targeted", "--priority 6")
    assert [(each.id, each.status) for each in lost.deployments] == [
        ("add", "Applied"),
        ("high", "Applied"),
        ("low", "Targeted"),
        ("under", "Targeted"),
    ]
    assert lost.modules == {"a": "high", "b": "add"}
    assert (await explain(hub, "add", "e1")).outcome == "applied"
    assert "must be higher" in (await explain(hub, "under", "e1")).summary


async def test_what_the_agent_says_is_part_of_it(deploying: Deploying) -> None:
    device = await deploying.edge("e1")
    agent = IdentityRef(device.hub, device.device_id, EDGE_AGENT)
    await deploying.create("base", base())

    async def told(**status: Any) -> str:
        desired = (await deploying.twin()).properties["desired"]
        report = {"lastDesiredVersion": desired["$version"], "lastDesiredStatus": status or None}
        await deploying.parts.twins.report(agent, report)
        return (await deploying.explanations.explain(device.hub, "base", "e1")).agent

    before = await deploying.explanations.explain(device.hub, "base", "e1")
    assert before.agent == "has not answered yet; it is disconnected"
    assert await told(code=500, description="no such image") == "answered 500: no such image"
    assert await told(code=200, description="") == "has it in force"
    assert await told() == "answered None: without saying why"
    await deploying.create("newer", base("a:2"))
    of_older = await deploying.explanations.explain(device.hub, "base", "e1")
    of_newer = await deploying.explanations.explain(device.hub, "newer", "e1")
    assert (of_older.agent, of_newer.agent) == ("", before.agent)


# What goes wrong, and who is connected.


class Poisoned:
    """A deployer that fails for some devices, and remembers who was given to it."""

    def __init__(self, deploying: Deploying, *poison: str, error: Exception | None = None) -> None:
        self._converge = deploying.deployer.converge
        self.poison = set(poison)
        self.error = error or RuntimeError("no good")
        self.asked: list[str] = []

    async def converge(self, hub: int, device_ids: Sequence[str]) -> None:
        self.asked += device_ids
        if self.poison.intersection(device_ids):
            raise self.error
        await self._converge(hub, device_ids)


@pytest.fixture
def told() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as log:
        yield log


async def test_a_device_that_fails_keeps_nobody_from_their_turn(
    deploying: Deploying, monkeypatch: pytest.MonkeyPatch, told: list[Any]
) -> None:
    monkeypatch.setattr(setbacks, "FIRST_S", 0.0)
    poisoned = Poisoned(deploying, "e1")
    monkeypatch.setattr(deploying.deployer, "converge", poisoned.converge)
    for number in range(5):
        await deploying.parts.device(f"e{number}", edge=True)
    await deploying.create("one", base("a:1"))
    await deploying.create("two", base("a:2"), priority=1)
    for device_id, image in (("e0", "a:2"), ("e1", None), ("e4", "a:2")):
        assert await deploying.image(device_id) == image
    warnings = [each for each in told if each["event"].startswith("deployments could not")]
    assert [(each["devices"], each["count"]) for each in warnings] == [(["e1"], 1)]
    # Its turn comes again, and it is forgotten when it is done.
    poisoned.poison.clear()
    deploying.convergence.try_again()
    await deploying.settle()
    assert await deploying.image("e1") == "a:2"
    poisoned.asked.clear()
    deploying.convergence.try_again()
    await deploying.settle()
    assert poisoned.asked == []


async def test_what_fails_for_all_is_not_tried_for_each(
    deploying: Deploying, monkeypatch: pytest.MonkeyPatch, told: list[Any]
) -> None:
    everyone = [f"e{number}" for number in range(20)]
    poisoned = Poisoned(deploying, *everyone)
    for device_id in everyone:
        await deploying.parts.device(device_id, edge=True)
    monkeypatch.setattr(deploying.deployer, "converge", poisoned.converge)
    await deploying.create("one", base())
    # All together, and three of them alone.
    assert len(poisoned.asked) == 23
    (warning,) = [each for each in told if each["event"].startswith("deployments could not")]
    assert (warning["count"], len(warning["devices"])) == (20, 5)


async def test_a_store_that_does_not_answer_is_not_held_against_devices(
    deploying: Deploying, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned = Poisoned(deploying, "e1", error=UnavailableError("away"))
    monkeypatch.setattr(deploying.deployer, "converge", poisoned.converge)
    await deploying.parts.device("e1", edge=True)
    with pytest.raises(UnavailableError):
        await deploying.create("one", base())
    poisoned.poison.clear()
    await deploying.settle()
    assert await deploying.image("e1") == "a:1"


async def test_a_configuration_that_finds_nobody_keeps_no_other_from_its_turn(
    deploying: Deploying, monkeypatch: pytest.MonkeyPatch, told: list[Any]
) -> None:
    await deploying.parts.device("e1", edge=True)
    find = deploying.targets.newcomers

    async def newcomers(hub: int, name: str, *rest: Any) -> Any:
        if name == "bad":
            raise RuntimeError("overflow")
        return await find(hub, name, *rest)

    monkeypatch.setattr(deploying.targets, "newcomers", newcomers)
    request = ConfigurationRequest(content=base(), target_condition="*", priority=1)
    await deploying.configurations.create(deploying.parts.hub, "bad", request)
    await deploying.create("good", base("a:3"), priority=2)
    assert await deploying.image("e1") == "a:3"
    assert [each["configuration"] for each in told if "configuration" in each] == ["bad"]


async def test_who_is_connected_can_be_the_condition(deploying: Deploying) -> None:
    ref = await deploying.parts.device("e1", edge=True)
    await deploying.create("all", base("a:1"))
    await deploying.create(
        "online", base("a:2"), priority=1, target_condition="connectionState = 'Connected'"
    )
    assert await deploying.image("e1") == "a:1"
    client = await deploying.parts.connect(ref)
    await deploying.settle()
    assert await deploying.image("e1") == "a:2"
    await client.vanish()
    await deploying.settle()
    assert await deploying.image("e1") == "a:1"


async def test_connections_are_nothing_to_other_conditions(deploying: Deploying) -> None:
    ref = await deploying.parts.device("e1", edge=True)
    await deploying.create("all", base())
    await deploying.parts.connect(ref)
    assert deploying.convergence.idle
