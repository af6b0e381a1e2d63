"""What the daemon does about itself; what it does for a device is tested with real processes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from muster.clock import SystemClock
from muster.edge.daemon.daemon import Daemon, InUseError
from muster.edge.daemon.own_log import OwnLog
from muster.edge.daemon.runtimes import Runtimes
from muster.edge.settings import ContainerEngine, ManualProvisioning, Settings, Sockets
from muster.edge.upstream.arrival import Arrival
from muster.errors import InvalidArgumentError
from muster.ids import Randomness
from support.edge import PATIENCE_S
from unit.edge.local_api.conftest import ask, short_path

__all__ = ["short_path"]


def _settings(directory: Path, **fields: Any) -> Settings:
    return Settings(
        source=directory / "config.toml",
        hostname="gateway",
        home=directory / "home",
        engine=ContainerEngine(uri=f"unix://{directory}/docker.sock"),
        sockets=Sockets(
            management=f"unix://{directory}/m.sock", workload=f"unix://{directory}/w.sock"
        ),
        **{
            # Nobody is at this address, so that nothing of the cloud is needed or waited for.
            "provisioning": ManualProvisioning(
                hub_host="127.0.0.1:9", device_id="d", key=bytes(16)
            ),
            **fields,
        },
    )


def _daemon(settings: Settings) -> Daemon:
    clock = SystemClock()
    return Daemon(settings, OwnLog(clock), Arrival(0), clock=clock, randomness=Randomness())


@pytest.fixture
async def daemon(short_path: Path) -> AsyncIterator[Daemon]:
    made = _daemon(_settings(short_path))
    yield made
    await made.close(stop_modules=False)


async def test_it_answers_before_it_has_anything(daemon: Daemon, short_path: Path) -> None:
    await daemon.start()
    answer = await ask(short_path / "m.sock", "GET", "/modules?api-version=2018-06-28")
    assert b"edgeAgent" in answer.body
    answer = await ask(short_path / "m.sock", "GET", "/identities?api-version=2018-06-28")
    assert answer.status == 503
    assert b"not provisioned yet" in answer.body
    target = "/device/reprovision?api-version=2022-08-03"
    answer = await ask(short_path / "m.sock", "POST", target)
    assert answer.status == 409
    assert b"provisioned by hand" in answer.body
    assert (short_path / "home").stat().st_mode & 0o777 == 0o711


async def test_what_fails_inside_ends_the_daemon(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(**_: object) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(daemon._provisioner, "start", fail)
    await daemon.start()
    async with asyncio.timeout(PATIENCE_S):
        await daemon.failed()


async def test_two_cannot_have_one_home(daemon: Daemon, short_path: Path) -> None:
    await daemon.start()
    other = _daemon(_settings(short_path))
    with pytest.raises(InUseError, match="another daemon runs with"):
        await other.start()
    await other.close(stop_modules=False)


async def test_a_device_without_a_hub_cannot_be(short_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="has no modules"):
        _daemon(_settings(short_path, provisioning=None))


async def test_a_container_engine_may_come_later(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muster.edge.daemon.runtimes._LOOK_S", 0.01)
    appeared = asyncio.Event()
    runtimes = Runtimes(_settings(short_path), appeared.set)
    await runtimes.start_up()
    assert [engine.type for engine in runtimes.engines] == ["process"]
    watching = asyncio.ensure_future(runtimes.watch())
    await asyncio.sleep(0.05)
    assert not appeared.is_set()
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(short_path / "docker.sock"))
        async with asyncio.timeout(PATIENCE_S):
            await appeared.wait()
    watching.cancel()
    await asyncio.wait([watching])
    await runtimes.start_up()
    assert [engine.type for engine in runtimes.engines] == ["process", "docker"]
    await runtimes.close()
