"""Deployments and configurations: what they do to devices and modules."""

from __future__ import annotations

import json

import pytest

from muster.errors import (
    InvalidArgumentError,
    NotFoundError,
)
from muster.model.configuration import Content
from muster.model.identity import ANY, Capabilities, DeviceRequest
from muster.wire.mqtt.packets import Publish
from unit.hub.deployment_parts import (
    DESIRED,
    Deploying,
    agent,
    base,
    layer,
    module,
    plain,
)

# What a deployment does to a device.


async def test_a_deployment_reaches_the_devices_that_match(deploying: Deploying) -> None:
    await deploying.edge("e1", site="a")
    await deploying.edge("e2", site="b")
    await deploying.parts.device("leaf")
    await deploying.create("one", base(), target_condition="tags.site = 'a'")
    assert await deploying.image("e1") == "a:1"
    assert await deploying.statuses("e1") == {"one": "Applied"}
    assert await deploying.image("e2") is None
    assert await deploying.statuses("e2") == {}
    hub_twin = await deploying.twin("e1", "$edgeHub")
    assert hub_twin.properties["desired"]["routes"] == {"up": "FROM /* INTO $upstream"}
    assert hub_twin.properties["desired"]["$version"] == 2
    modules = await deploying.parts.modules.of_device(deploying.parts.hub.id, "e1")
    made = {each.module_id: (each.managed_by, each.authentication.type) for each in modules}
    assert made["a"] == ("iotEdge", "none")


async def test_nothing_that_is_as_it_should_be_is_written_again(deploying: Deploying) -> None:
    await deploying.edge("e1", site="a")
    await deploying.create("one", base())
    before = await deploying.twin()
    deploying.convergence.sweep_all()
    await deploying.settle()
    await deploying.tag("e1", other=1)
    await deploying.update("one", labels={"x": "y"})
    assert await deploying.twin() == before


async def test_a_changed_tag_moves_a_device(deploying: Deploying) -> None:
    await deploying.edge("e1", ring=1)
    await deploying.create("all", base("a:1"))
    await deploying.create("early", base("a:2"), priority=1, target_condition="tags.ring = 0")
    assert await deploying.image() == "a:1"
    await deploying.tag("e1", ring=0)
    assert await deploying.image() == "a:2"
    assert await deploying.statuses() == {"all": "Targeted", "early": "Applied"}
    await deploying.tag("e1", ring="0")
    assert await deploying.image() == "a:1"


async def test_a_device_that_joins_late_gets_what_there_is(deploying: Deploying) -> None:
    await deploying.create("all", base("a:1"))
    await deploying.parts.device("late", edge=True)
    await deploying.settle()
    assert await deploying.image("late") == "a:1"
    await deploying.parts.device("plain")
    await deploying.parts.identities.update(
        deploying.parts.hub.id, "plain", DeviceRequest(capabilities=Capabilities(True)), ANY
    )
    await deploying.settle()
    assert await deploying.image("plain") == "a:1"


async def test_the_higher_priority_wins_and_rolls_back(deploying: Deploying) -> None:
    await deploying.edge()
    await deploying.create("old", base("a:1"), priority=1)
    await deploying.create("new", base("a:2"), priority=2)
    assert await deploying.image() == "a:2"
    await deploying.update("new", priority=0)
    assert await deploying.image() == "a:1"
    await deploying.update("new", priority=1)
    assert await deploying.image() == "a:2"
    await deploying.delete("new")
    assert await deploying.image() == "a:1"
    assert await deploying.statuses() == {"old": "Applied"}


async def test_modules_stay_when_the_last_deployment_goes(deploying: Deploying) -> None:
    await deploying.edge("e1", site="a")
    await deploying.create("one", base(), target_condition="tags.site = 'a'")
    await deploying.tag("e1", site="b")
    assert await deploying.image() == "a:1"
    assert await deploying.statuses() == {}
    assert (await deploying.twin()).properties["desired"]["$version"] == 2


async def test_layers_come_and_go(deploying: Deploying) -> None:
    await deploying.edge("e1", extra=False)
    own = {f"{DESIRED}.limits": {"high": 5}}
    extra = layer(
        agent={f"{DESIRED}.modules.b": module("b:1")},
        a=own,
        b={DESIRED: {"x": 1}},
    )
    await deploying.create("base", base())
    await deploying.create("extra", extra, priority=1, target_condition="tags.extra = true")
    assert await deploying.image(module="b") is None
    await deploying.tag("e1", extra=True)
    assert await deploying.image(module="b") == "b:1"
    assert await deploying.statuses() == {"base": "Applied", "extra": "Applied"}
    assert plain((await deploying.twin(module_id="a")).properties["desired"]) == {
        "limits": {"high": 5}
    }
    assert plain((await deploying.twin(module_id="b")).properties["desired"]) == {"x": 1}
    await deploying.tag("e1", extra=False)
    assert await deploying.image(module="b") is None
    # What was set path by path is taken away; a whole section stays.
    assert plain((await deploying.twin(module_id="a")).properties["desired"]) == {}
    assert plain((await deploying.twin(module_id="b")).properties["desired"]) == {"x": 1}


async def test_what_a_layer_set_in_a_new_module_is_taken_away_too(deploying: Deploying) -> None:
    extra = layer(
        agent={f"{DESIRED}.modules.b": module("b:1")}, b={f"{DESIRED}.limits": {"high": 5}}
    )
    await deploying.create("base", base())
    await deploying.create("extra", extra, priority=1, target_condition="tags.extra = true")
    await deploying.edge("e1", extra=True)
    await deploying.settle()
    twin = await deploying.twin(module_id="b")
    assert plain(twin.properties["desired"]) == {"limits": {"high": 5}}
    await deploying.tag("e1", extra=False)
    assert plain((await deploying.twin(module_id="b")).properties["desired"]) == {}


async def test_a_connected_agent_hears_of_what_changed(deploying: Deploying) -> None:
    await deploying.edge()
    await deploying.create("one", base("a:1"))
    listener = await agent(deploying)
    await deploying.create("two", base("a:2"), priority=1)
    (packet,) = await listener.take()
    assert isinstance(packet, Publish)
    assert packet.topic == "$iothub/twin/PATCH/properties/desired/?$version=3"
    assert json.loads(packet.payload) == {
        "modules": {"a": {"settings": {"image": "a:2"}}},
        "$version": 3,
    }


async def test_a_removed_module_is_told_as_null(deploying: Deploying) -> None:
    await deploying.edge()
    await deploying.create("one", base("a:1"))
    listener = await agent(deploying)
    other = base()
    assert other.modules_content is not None
    other.modules_content["$edgeAgent"][DESIRED]["modules"] = {"c": module("c:1")}
    await deploying.create("two", other, priority=1)
    (packet,) = await listener.take()
    assert isinstance(packet, Publish)
    assert json.loads(packet.payload)["modules"] == {"a": None, "c": module("c:1")}


# Configurations of devices and modules.


async def test_configurations_are_merged_into_a_device_and_taken_away(
    deploying: Deploying,
) -> None:
    await deploying.parts.device("d1")
    await deploying.desire("d1", {"own": 1, "net": {"mtu": 1500}})
    await deploying.create(
        "net", Content(device_content={f"{DESIRED}.net.dns": "a", f"{DESIRED}.log": "warn"})
    )
    await deploying.create("loud", Content(device_content={f"{DESIRED}.log": "debug"}), priority=1)
    twin = await deploying.twin("d1", "")
    assert plain(twin.properties["desired"]) == {
        "own": 1,
        "net": {"mtu": 1500, "dns": "a"},
        "log": "debug",
    }
    assert await deploying.statuses("d1", "") == {"net": "Applied", "loud": "Applied"}
    await deploying.delete("loud")
    assert (await deploying.twin("d1", "")).properties["desired"]["log"] == "warn"
    await deploying.update("net", target_condition="tags.x = 1")
    assert plain((await deploying.twin("d1", "")).properties["desired"]) == {
        "own": 1,
        "net": {"mtu": 1500},
    }
    assert await deploying.statuses("d1", "") == {}


async def test_configurations_of_modules(deploying: Deploying) -> None:
    await deploying.parts.device("d1")
    await deploying.parts.module("d1", "m1")
    await deploying.create(
        "quiet",
        Content(module_content={f"{DESIRED}.log": "error"}),
        target_condition="FROM devices.modules WHERE moduleId = 'm1'",
    )
    assert plain((await deploying.twin("d1", "m1")).properties["desired"]) == {"log": "error"}
    await deploying.parts.device("d2")
    await deploying.parts.module("d2", "m1")
    await deploying.settle()
    assert await deploying.statuses("d2", "m1") == {"quiet": "Applied"}
    assert await deploying.statuses("d2", "") == {}


async def test_reported_properties_can_be_the_condition(deploying: Deploying) -> None:
    ref = await deploying.parts.device("d1")
    await deploying.create(
        "fix",
        Content(device_content={f"{DESIRED}.fix": True}),
        target_condition="properties.reported.firmware < 2",
    )
    await deploying.parts.twins.report(ref, {"firmware": 1})
    await deploying.settle()
    assert (await deploying.twin("d1", "")).properties["desired"]["fix"] is True
    await deploying.parts.twins.report(ref, {"firmware": 2})
    await deploying.settle()
    assert "fix" not in (await deploying.twin("d1", "")).properties["desired"]


async def test_a_twin_without_room_stays_as_it_is(deploying: Deploying) -> None:
    await deploying.parts.device("d1")
    await deploying.desire("d1", {f"k{n}": "x" * 4000 for n in range(8)})
    before = (await deploying.twin("d1", "")).properties
    await deploying.create("big", Content(device_content={f"{DESIRED}.b": "y" * 2000}))
    assert (await deploying.twin("d1", "")).properties == before
    assert await deploying.statuses("d1", "") == {"big": "Targeted"}


# By hand.


async def test_modules_by_hand(deploying: Deploying) -> None:
    await deploying.edge()
    hub = deploying.parts.hub.id
    await deploying.deployer.apply_content(hub, "e1", base("a:7"))
    assert await deploying.image() == "a:7"
    other = base()
    assert other.modules_content is not None
    other.modules_content["$edgeAgent"][DESIRED]["modules"] = {"c": module("c:1")}
    await deploying.deployer.apply_content(hub, "e1", other)
    modules = await deploying.parts.modules.of_device(hub, "e1")
    assert sorted(each.module_id for each in modules) == ["$edgeAgent", "$edgeHub", "c"]
    await deploying.parts.device("leaf")
    with pytest.raises(InvalidArgumentError, match="no IoT Edge device"):
        await deploying.deployer.apply_content(hub, "leaf", base())
    with pytest.raises(NotFoundError):
        await deploying.deployer.apply_content(hub, "nobody", base())
    with pytest.raises(InvalidArgumentError):
        await deploying.deployer.apply_content(
            hub, "e1", Content(device_content={f"{DESIRED}.a": 1})
        )
