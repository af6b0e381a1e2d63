"""The hub as provisioning uses it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from muster.auth.symmetric_keys import SymmetricKeys
from muster.errors import AlreadyExistsError, MusterError
from muster.hub.twins import TwinProperties, TwinRequest
from muster.local_hub import LocalHub, LocalHubs
from muster.model.identity import (
    Authentication,
    DeviceRequest,
    IdentityRef,
    ModuleRequest,
    Thumbprints,
)
from muster.provisioning.hubs import LinkedHub, ProvisionedDevice
from muster.store.engine import Statement
from muster.store.queries import load
from unit.hub.hub_parts import HOST, KEY, KEY2

if TYPE_CHECKING:
    from unit.hub.hub_parts import Parts

KEYS = SymmetricKeys(KEY, KEY2)
OTHER_KEYS = SymmetricKeys(KEY2, KEY)


def local_hubs(parts: Parts) -> LocalHubs:
    return LocalHubs(
        hubs=parts.hubs,
        telemetry=parts.telemetry,
        identities=parts.identities,
        modules=parts.modules,
        twins=parts.twins,
        connections=parts.connections,
        clock=parts.clock,
        randomness=parts.randomness,
    )


@pytest.fixture
def hub(parts: Parts) -> LocalHub:
    return local_hubs(parts).get(HOST)


def device(**fields: Any) -> ProvisionedDevice:
    wanted: dict[str, Any] = {
        "device_id": "d1",
        "keys": KEYS,
        "iot_edge": False,
        "tags": {"site": 1},
        "desired": {"a": {"b": 1}},
    }
    return ProvisionedDevice(**(wanted | fields))


def test_it_is_a_linked_hub(hub: LocalHub) -> None:
    linked: LinkedHub = hub
    assert (linked.host, linked.local) == (HOST, True)


async def test_a_device_is_made_once_and_then_only_read(
    hub: LocalHub, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await hub.provision(device(iot_edge=True)) is True
    twin = await parts.twins.get(IdentityRef(parts.hub.id, "d1"))
    assert twin.tags == {"site": 1}
    assert twin.properties["desired"]["a"]["b"] == 1
    assert len(await parts.modules.of_device(parts.hub.id, "d1")) == 2
    before = await parts.identities.get(parts.hub.id, "d1")

    async def no_write(*statements: Statement) -> None:
        raise AssertionError(statements)

    monkeypatch.setattr(type(parts.engine), "write", no_write)
    assert await hub.provision(device(iot_edge=True, tags={}, desired={"other": 1})) is False
    monkeypatch.undo()
    assert await parts.identities.get(parts.hub.id, "d1") == before


async def test_rolled_keys_and_a_new_capability_are_taken_over(hub: LocalHub, parts: Parts) -> None:
    await hub.provision(device())
    assert await hub.provision(device(keys=OTHER_KEYS)) is False
    await parts.connect(IdentityRef(parts.hub.id, "d1"))
    assert await hub.provision(device(keys=OTHER_KEYS, iot_edge=True)) is False
    identity = await parts.identities.get(parts.hub.id, "d1")
    assert identity.authentication.symmetric_key is not None
    assert identity.authentication.symmetric_key.primary_key == KEY2
    assert identity.iot_edge
    assert (await parts.twins.get(IdentityRef(parts.hub.id, "d1"))).tags == {"site": 1}
    await hub.provision(device())
    assert not (await parts.identities.get(parts.hub.id, "d1")).iot_edge


async def test_an_edge_device_with_children_stays_one(hub: LocalHub, parts: Parts) -> None:
    await hub.provision(device(iot_edge=True))
    scope = (await parts.identities.get(parts.hub.id, "d1")).device_scope
    await parts.identities.create(parts.hub.id, "leaf", DeviceRequest(device_scope=scope))
    assert await hub.provision(device(keys=OTHER_KEYS)) is False
    identity = await parts.identities.get(parts.hub.id, "d1")
    assert identity.iot_edge
    assert identity.authentication.symmetric_key is not None
    assert identity.authentication.symmetric_key.primary_key == KEY2


async def test_what_goes_along_is_written_with_a_new_device_only(
    hub: LocalHub, parts: Parts
) -> None:
    mark = Statement(load("settings")["put"], {"name": "along", "value": "1"}, expect=1)
    assert await hub.provision(device(), [mark], known=False) is True
    rows = await parts.engine.read(load("settings")["all"], {})
    assert ("along", "1") in rows
    again = Statement(load("settings")["put"], {"name": "along", "value": "2"}, expect=1)
    # Believed to be new, but there: keys are taken over, nothing goes along.
    assert await hub.provision(device(keys=OTHER_KEYS), [again], known=False) is False
    identity = await parts.identities.get(parts.hub.id, "d1")
    assert identity.authentication.symmetric_key is not None
    assert identity.authentication.symmetric_key.primary_key == KEY2
    assert await parts.engine.read(load("settings")["all"], {}) == rows


async def test_of_many_at_once_one_creates(hub: LocalHub) -> None:
    results = await asyncio.gather(*(hub.provision(device()) for _ in range(10)))
    assert sorted(results) == [False] * 9 + [True]


async def test_a_device_moves_with_all_it_has(hub: LocalHub, parts: Parts) -> None:
    ref = IdentityRef(parts.hub.id, "d1")
    module = IdentityRef(ref.hub, "d1", "m1")
    await hub.provision(device(iot_edge=True))
    await parts.module()
    await parts.twins.change(module, TwinRequest({"t": 1}, TwinProperties({"speed": 3})))
    agent = IdentityRef(ref.hub, "d1", "$edgeAgent")
    await parts.twins.change(agent, TwinRequest(properties=TwinProperties({"modules": {"x": {}}})))
    agent_keys = (await parts.modules.get(agent)).authentication.symmetric_key
    snapshot = await hub.export("d1")
    assert snapshot is not None
    assert "KEY" not in repr(snapshot)
    assert KEY not in repr(snapshot)

    other = await local_hubs(parts).create("other.example")
    number = parts.hubs.get("other.example").id
    # A device of that name that is there already gives way, with its sessions.
    await other.provision(device(tags={"stale": True}))
    await other.restore(device(keys=OTHER_KEYS, iot_edge=True), snapshot)
    moved = await parts.identities.get(number, "d1")
    assert moved.iot_edge
    assert moved.authentication.symmetric_key is not None
    assert moved.authentication.symmetric_key.primary_key == KEY2
    twin = await parts.twins.get(IdentityRef(number, "d1"))
    assert (twin.tags, twin.properties["desired"]["a"]["b"]) == ({"site": 1}, 1)
    assert await other.export("d1") == snapshot
    moved_agent = await parts.modules.get(IdentityRef(number, "d1", "$edgeAgent"))
    assert moved_agent.authentication.symmetric_key == agent_keys
    moved_twin = await parts.twins.get(IdentityRef(number, "d1", "$edgeAgent"))
    assert moved_twin.properties["desired"]["modules"] == {"x": {}}

    await hub.delete("d1")
    await hub.delete("d1")
    assert await hub.export("d1") is None


async def test_a_module_takes_its_thumbprints_along(hub: LocalHub, parts: Parts) -> None:
    await hub.provision(device())
    proof = Authentication(None, Thumbprints("AB" * 20, "cd" * 32), "selfSigned")
    ref = IdentityRef(parts.hub.id, "d1", "m1")
    await parts.modules.create(ref, ModuleRequest(authentication=proof))
    snapshot = await hub.export("d1")
    assert snapshot is not None
    other = await local_hubs(parts).create("other.example")
    await other.restore(device(), snapshot)
    moved = IdentityRef(parts.hubs.get("other.example").id, "d1", "m1")
    own = (await parts.modules.get(moved)).authentication
    assert (own.type, own.x509_thumbprint) == ("selfSigned", proof.x509_thumbprint)


async def test_system_modules_go_with_the_capability(hub: LocalHub, parts: Parts) -> None:
    await hub.provision(device())
    plain = await hub.export("d1")
    await hub.provision(device(iot_edge=True))
    edge = await hub.export("d1")
    assert plain is not None
    assert edge is not None
    await hub.restore(device(iot_edge=True), plain)
    assert len(await parts.modules.of_device(parts.hub.id, "d1")) == 2
    await hub.restore(device(), edge)
    assert await parts.modules.of_device(parts.hub.id, "d1") == []


async def test_disabling_drops_every_session_and_can_be_undone(hub: LocalHub, parts: Parts) -> None:
    assert await hub.set_enabled("d1", enabled=False, reason="lost") is None
    await hub.provision(device())
    ref, module = IdentityRef(parts.hub.id, "d1"), await parts.module()
    client, module_client = await parts.connect(ref), await parts.connect(module)
    assert await hub.set_enabled("d1", enabled=False, reason="lost " * 100) == 2
    assert client.peer.closed
    assert module_client.peer.closed
    identity = await parts.identities.get(ref.hub, "d1")
    assert identity.status == "disabled"
    assert identity.status_reason is not None
    assert identity.status_reason.startswith("lost")
    assert await parts.refused(ref) == 5
    # Provisioning does not undo what an operator did.
    await hub.provision(device(keys=OTHER_KEYS))
    assert (await parts.identities.get(ref.hub, "d1")).status == "disabled"
    assert await hub.set_enabled("d1", enabled=True, reason="") == 0
    await parts.connect(ref, password=parts.token(ref, KEY2))


async def test_hubs_are_made_and_found(parts: Parts) -> None:
    hubs = local_hubs(parts)
    assert (await hubs.create("New.Example")).host == "new.example"
    assert hubs.get("new.example").host == "new.example"
    with pytest.raises(AlreadyExistsError):
        await hubs.create("new.example")
    with pytest.raises(MusterError):
        hubs.get("nowhere")
