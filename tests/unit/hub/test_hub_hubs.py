"""The hubs of a service and their policies."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from muster.auth.access_policies import Right
from muster.auth.keyring import Keyring
from muster.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    UnauthorizedError,
)
from muster.hub.hubs import Hubs, without_port
from muster.ids import Randomness
from unit.hub.hub_parts import HOST, MASTER

if TYPE_CHECKING:
    from pathlib import Path

    from unit.hub.hub_parts import Parts


async def reopened(parts: Parts) -> Hubs:
    hubs = Hubs(parts.engine, Keyring(MASTER), parts.clock, Randomness())
    await hubs.open()
    return hubs


async def test_a_new_hub_has_the_five_policies(parts: Parts, tmp_path: Path) -> None:
    hub = parts.hub
    assert {name: policy.rights for name, policy in hub.policies.items()} == {
        "iothubowner": {
            Right.REGISTRY_READ,
            Right.REGISTRY_WRITE,
            Right.SERVICE_CONNECT,
            Right.DEVICE_CONNECT,
        },
        "service": {Right.SERVICE_CONNECT},
        "device": {Right.DEVICE_CONNECT},
        "registryRead": {Right.REGISTRY_READ},
        "registryReadWrite": {Right.REGISTRY_READ, Right.REGISTRY_WRITE},
    }
    again = (await reopened(parts)).get(HOST)
    assert (again.id, again.policies) == (hub.id, hub.policies)
    key = hub.policies["service"].keys.primary
    dump = "\n".join(sqlite3.connect(tmp_path / "muster.db").iterdump())
    assert key not in dump
    assert key.encode().hex() not in dump.lower()


async def test_hubs_are_found_by_name(parts: Parts) -> None:
    assert parts.hubs.find(f"{HOST.upper()}:8443") is parts.hub
    assert parts.hubs.find("elsewhere") is None
    assert parts.hubs.for_request(None) is parts.hub
    other = await parts.hubs.create("Other.Example")
    assert parts.hubs.get("OTHER.example") is other
    assert [hub.host for hub in parts.hubs.all()] == [HOST, "other.example"]
    with pytest.raises(UnauthorizedError):
        parts.hubs.for_request("elsewhere")
    with pytest.raises(NotFoundError):
        parts.hubs.get("elsewhere")
    with pytest.raises(AlreadyExistsError):
        await parts.hubs.create(HOST.upper())
    for wrong in ("", "a b", "-a", "a/b", "host:1"):
        with pytest.raises(InvalidArgumentError):
            await parts.hubs.create(wrong)


async def test_aliases_stand_for_an_only_hub(parts: Parts) -> None:
    hubs = Hubs(parts.engine, Keyring(MASTER), parts.clock, Randomness(), ["Localhost", "::1"])
    await hubs.open()
    hub = hubs.get(HOST)
    assert hubs.find("localhost:8883") is hub
    assert hubs.find("[::1]:443") is hub
    assert hub.names == {HOST, "localhost", "::1"}
    await hubs.create("second.example")
    assert hubs.find("localhost") is None
    assert hub.names == {HOST}


async def test_policies_are_made_changed_and_deleted(parts: Parts) -> None:
    hub = parts.hub
    made = await parts.hubs.save_policy(hub, "reader", [Right.REGISTRY_READ])
    changed = await parts.hubs.save_policy(hub, "reader", [Right.SERVICE_CONNECT])
    assert changed.keys == made.keys
    key = "QUFBQUFBQUFBQUFBQUFBQUFBQUE="
    changed = await parts.hubs.save_policy(hub, "reader", [Right.SERVICE_CONNECT], key)
    assert (changed.keys.primary, changed.keys.secondary) == (key, made.keys.secondary)
    assert (await reopened(parts)).get(HOST).policies["reader"] == changed
    await parts.hubs.delete_policy(hub, "reader")
    assert "reader" not in (await reopened(parts)).get(HOST).policies
    with pytest.raises(NotFoundError):
        await parts.hubs.delete_policy(hub, "reader")
    for name, rights in (
        ("a b", [Right.SERVICE_CONNECT]),
        ("none", []),
        ("foreign", [Right.ENROLLMENT_READ]),
    ):
        with pytest.raises(InvalidArgumentError):
            await parts.hubs.save_policy(hub, name, rights)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("a", "a"),
        ("a:443", "a"),
        ("[::1]:443", "::1"),
        ("[::1]", "::1"),
        ("::1", "::1"),
        ("", ""),
    ],
)
def test_ports_are_no_part_of_a_name(host: str, name: str) -> None:
    assert without_port(host) == name
