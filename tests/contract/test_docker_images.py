"""Images that no module uses any more, in a real Docker Engine (edge.md 3.5)."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest
from engine_harness import DockerHarness

from muster.clock import ManualClock
from muster.edge.daemon.image_collection import ImageCollector
from muster.edge.engine.base import ModuleSpec, PullPolicy
from muster.edge.settings import ImageCollection
from muster.edge.state import StateDirectory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.docker import DockerHost, Registry

pytestmark = pytest.mark.xdist_group("docker")

DAY_S = 86_400.0
NOON = dt.datetime(2026, 11, 25, 12, 0).astimezone()


class Device:
    """A device with a Docker Engine, whose days pass at once."""

    def __init__(self, harness: DockerHarness, host: DockerHost, home: Path) -> None:
        self.engine = harness.engine
        self.clock = ManualClock(NOON.timestamp())
        self._harness = harness
        self._host = host
        self._home = home
        self.begin()

    def begin(self, **settings: object) -> None:
        """Start anew, as after a restart of the daemon."""
        self._collector = ImageCollector(
            ImageCollection(**settings),  # type: ignore[arg-type]
            [self.engine],
            StateDirectory(self._home),
            self.clock,
        )

    async def make(self, image: str, name: str = "worker") -> None:
        spec = ModuleSpec(
            name=name,
            module_id=name,
            settings={"image": image},
            pull_policy=PullPolicy.NEVER,
        )
        await self.engine.prepare(spec)
        await self.engine.remove(name)
        await self.engine.create(spec)

    async def look(self, after_days: float = 0.0) -> None:
        self.clock.advance(after_days * DAY_S)
        await self._collector.look()

    def has(self, image: str) -> bool:
        return self._host.call("GET", f"/images/{image}/json").status == 200

    def build(self, name: str) -> str:
        image = f"muster/collected-{name}:1"
        self._host.build(image, "scratch", ["/program"], {"/program": f"version {name}"})
        return image


@pytest.fixture
async def device(
    docker_host: DockerHost, registry: Registry, tmp_path: Path
) -> AsyncIterator[Device]:
    harness = DockerHarness(docker_host, registry.base)
    yield Device(harness, docker_host, tmp_path / "home")
    await harness.end()
    docker_host.remove_containers()
    for listed in docker_host.must("GET", "/images/json"):
        for tag in listed["RepoTags"] or []:
            if tag.startswith("muster/collected-"):
                docker_host.forget(tag)


async def test_what_no_module_uses_goes_after_a_week(device: Device) -> None:
    old, new, foreign = (device.build(name) for name in ("old", "new", "foreign"))
    await device.make(old)
    await device.look()
    await device.make(new)
    await device.look(1)
    device.begin()
    await device.look(6.9)
    assert device.has(old)
    await device.look(1)
    assert not device.has(old)
    assert device.has(new)
    assert device.has(foreign)  # no module was ever made of it
    await device.look(100)
    assert device.has(new)


async def test_what_came_back_into_use_begins_anew(device: Device) -> None:
    first, second = device.build("first"), device.build("second")
    await device.make(first)
    await device.look()
    await device.make(second)
    await device.look(1)
    await device.make(first)
    await device.look(6)
    await device.make(second)
    await device.look(3)
    assert device.has(first)
    await device.look(8)
    assert not device.has(first)


async def test_a_module_that_ended_between_two_looks_counts(device: Device) -> None:
    brief, lasting = device.build("brief"), device.build("lasting")
    await device.make(brief)
    await device.make(lasting)
    await device.look()
    await device.look(8)
    assert not device.has(brief)
    assert device.has(lasting)


async def test_containers_of_others_keep_their_images(
    device: Device, docker_host: DockerHost
) -> None:
    shared, other = device.build("shared"), device.build("other")
    await device.make(shared)
    await device.look()
    docker_host.must("POST", "/containers/create?name=stranger", {"Image": shared})
    await device.make(other)
    await device.look(1)
    await device.look(30)
    assert device.has(shared)
    docker_host.must("DELETE", "/containers/stranger")
    await device.look()
    await device.look(8)
    assert not device.has(shared)


async def test_what_is_about_to_be_used_stays(device: Device) -> None:
    waiting, other = device.build("waiting"), device.build("waiting-other")
    await device.make(waiting)
    await device.look()
    await device.make(other)
    await device.look(1)
    spec = ModuleSpec(
        name="worker", module_id="w", settings={"image": waiting}, pull_policy=PullPolicy.NEVER
    )
    await device.engine.prepare(spec)
    await device.look(30)
    await device.engine.remove("worker")
    await device.engine.create(spec)
    assert device.has(waiting)


async def test_an_image_with_a_name_of_its_owner_s_stays(
    device: Device, docker_host: DockerHost
) -> None:
    named, other = device.build("named"), device.build("named-other")
    await device.make(named)
    await device.look()
    docker_host.must("POST", f"/images/{named}/tag?repo=muster/collected-kept&tag=1")
    await device.make(other)
    await device.look(1)
    await device.look(30)
    assert device.has("muster/collected-kept:1")


async def test_days_and_hours_are_those_of_the_settings(device: Device) -> None:
    old, new = device.build("timed-old"), device.build("timed-new")
    device.begin(every_days=3, age_s=60, at_minute=13 * 60)
    await device.make(old)
    await device.look(1 / 24)  # 13:00: the first collection
    await device.make(new)
    await device.look(1)
    await device.look(2 - 1 / 48)
    assert device.has(old)  # three days later, but not yet one o'clock
    await device.look(1 / 48)
    assert not device.has(old)


async def test_nothing_goes_where_that_is_switched_off(device: Device) -> None:
    old, new = device.build("kept-old"), device.build("kept-new")
    device.begin(enabled=False)
    await device.make(old)
    await device.look()
    await device.make(new)
    await device.look(1)
    await device.look(100)
    assert device.has(old)
