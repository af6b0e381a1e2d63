"""When a device comes to its services: at once when it is set up, at its own moment when it starts.

The daemon runs in this process, so that a test says when that moment is; the service, its modules
and their supervisors are processes as always.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from muster.clock import SystemClock
from muster.edge.configuration.load import load
from muster.edge.daemon.daemon import Daemon
from muster.edge.daemon.own_log import OwnLog
from muster.edge.upstream.arrival import Arrival
from muster.ids import Randomness
from support.device import unique
from support.edge import until
from support.edge_daemon import EdgeDaemon, deploy, process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.instance import Instance

pytestmark = pytest.mark.timeout(240)

FAR_S = 3600.0


class Device:
    """A device whose daemon is started again and again."""

    def __init__(self, instance: Instance, files: EdgeDaemon, device_id: str) -> None:
        self._instance = instance
        self.files = files
        self.device_id = device_id
        self.mark = files.directory / "mark"

    @contextlib.asynccontextmanager
    async def started(self) -> AsyncIterator[Arrival]:
        """Run the daemon of a device that comes at a moment far away, if it waits for it."""
        clock, arrival = SystemClock(), Arrival(FAR_S)
        settings = load(self.files.config).settings
        daemon = Daemon(settings, OwnLog(clock), arrival, clock=clock, randomness=Randomness())
        await daemon.start()
        try:
            yield arrival
        finally:
            await daemon.close(stop_modules=True)

    async def connected(self) -> None:
        await until(lambda: self.connection_state() == "Connected")

    def connection_state(self) -> str:
        path = f"/devices/{self.device_id}/modules/$edgeAgent"
        found = self._instance.hub().call("GET", path)
        return str(found.json["connectionState"]) if found.status == 200 else ""

    def deploy(self) -> None:
        script = f'touch "{self.mark}"; exec sleep 3600'
        deploy(self._instance, self.device_id, {"idle": process("sh", "-c", script)})


@pytest.fixture
async def device(shared_instance: Instance) -> AsyncIterator[Device]:
    if shared_instance.place.why_not_official is not None:
        pytest.skip(shared_instance.place.why_not_official)
    with EdgeDaemon(shared_instance) as files:
        device_id = unique("edge")
        key, _ = shared_instance.dps.enroll(
            device_id,
            capabilities={"iotEdge": True},
            iotHubs=[shared_instance.place.hubs[0]],
            allocationPolicy="hashed",
        )
        files.configure(device_id, key)
        yield Device(shared_instance, files, device_id)


async def test_modules_run_before_the_device_comes_to_its_hub(device: Device) -> None:
    # Set up just now: it waits for nothing.
    async with device.started():
        await device.connected()
        device.deploy()
        await until(device.mark.exists)
    device.mark.unlink()
    # Started again: its module runs, and the hub has not heard of it.
    async with device.started() as arrival:
        await until(device.mark.exists)
        assert arrival.left_s > FAR_S / 2
        assert device.connection_state() == "Disconnected"
        arrival.now()
        await device.connected()


async def test_who_is_configured_for_another_service_comes_at_once(device: Device) -> None:
    async with device.started():
        await device.connected()
    state = device.files.home / "provisioning.json"
    # As if it had been provisioned by another configuration.
    state.write_text(state.read_text().replace('"configuration":"', '"configuration":"0'))
    async with device.started():
        await device.connected()
