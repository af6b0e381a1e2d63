"""The edge hub's own twin where something does not go as it should."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from muster.clock import ManualClock
from muster.edge.hub import own_twin
from muster.edge.hub.clients import Clients
from muster.edge.hub.desired import Configuration
from muster.edge.hub.own_twin import OwnTwin
from muster.edge.upstream.base import HubError, Link
from muster.errors import UnavailableError

DESIRED = {"schemaVersion": "1.0", "routes": {"up": "FROM /* INTO $upstream"}, "$version": 4}


class FullDisk:
    async def write(self, *statements: object) -> None:
        raise UnavailableError("the disk is full", code="store-unavailable")


class Hub:
    def __init__(self) -> None:
        self.used: list[Configuration] = []

    def use(self, configuration: Configuration) -> None:
        self.used.append(configuration)

    async def refresh_scope(self, device_ids: list[str]) -> None: ...

    def own_link_changed(self, *, up: bool) -> None: ...


class Session:
    def __init__(self, *versions: Any) -> None:
        self.versions = list(versions)
        self.reads = 0
        self.reports: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def open(self) -> None: ...

    async def close(self) -> None: ...

    async def twin(self) -> dict[str, Any]:
        self.reads += 1
        version = self.versions.pop(0) if len(self.versions) > 1 else self.versions[0]
        if type(version) is not int:
            raise HubError("the hub answers with a twin whose version is none", 502)
        return {"desired": {**DESIRED, "$version": version}, "reported": {}}

    async def report(self, patch: dict[str, Any]) -> None:
        self.reports.put_nowait(patch)


@pytest.mark.parametrize("versions", [(4,), ("four", None, 4)])
async def test_a_configuration_is_used_and_reported_though_the_disk_is_full(
    versions: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_twin, "REPORT_AFTER_S", 0.01)
    hub, session = Hub(), Session(*versions)
    twin = OwnTwin(hub, Clients(ManualClock()), FullDisk(), "dev-1")  # type: ignore[arg-type]
    twin.open(session)  # type: ignore[arg-type]
    twin.link_changed(Link.CONNECTED, "")
    async with asyncio.timeout(60):
        patch = await session.reports.get()
    await twin.close()
    assert patch["lastDesiredVersion"] == 4
    assert patch["lastDesiredStatus"] == {"code": 200, "description": ""}
    assert len(hub.used[-1].routes) == 1


async def test_a_change_while_the_twin_is_read_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(own_twin, "REPORT_AFTER_S", 0.01)
    hub, session = Hub(), Session(4, 5)
    twin = OwnTwin(hub, Clients(ManualClock()), FullDisk(), "dev-1")  # type: ignore[arg-type]
    read = session.twin

    async def overtaken() -> dict[str, Any]:
        found = await read()
        if found["desired"]["$version"] == 4:
            twin.desired_changed({"routes": {"up": None}, "$version": 5})
        return found

    monkeypatch.setattr(session, "twin", overtaken)
    twin.open(session)  # type: ignore[arg-type]
    twin.link_changed(Link.CONNECTED, "")
    async with asyncio.timeout(60):
        while (await session.reports.get()).get("lastDesiredVersion") != 5:
            pass
    await twin.close()


async def test_an_odd_request_to_refresh_is_answered() -> None:
    twin = OwnTwin(Hub(), Clients(ManualClock()), FullDisk(), "dev-1")  # type: ignore[arg-type]
    for payload in (None, 7, {"deviceIds": 7}, {"deviceIds": [7, "a"]}):
        assert await twin.method("RefreshDeviceScopeIdentityCache", payload) == (200, None)


async def test_a_configuration_in_place_of_another_is_read_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(own_twin, "REPORT_AFTER_S", 0.01)
    hub, session = Hub(), Session(4, 5)
    twin = OwnTwin(hub, Clients(ManualClock()), FullDisk(), "dev-1")  # type: ignore[arg-type]
    twin.open(session)  # type: ignore[arg-type]
    twin.link_changed(Link.CONNECTED, "")
    async with asyncio.timeout(60):
        assert (await session.reports.get())["lastDesiredVersion"] == 4
        # The hub tells the new document, without the route that went with the one before.
        twin.desired_changed({"schemaVersion": "1.0", "routes": {}, "$version": 5})
        assert (await session.reports.get())["lastDesiredVersion"] == 5
    await twin.close()
    # What is read counts, not what the two have together.
    assert session.reads == 2
    assert len(hub.used) == 2
