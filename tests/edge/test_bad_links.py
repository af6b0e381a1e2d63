"""The whole edge runtime behind a link that is cut, slow and lossy, and killed in every state.

Each device is in a site of its own (`support.site`), runs the real `iotedged` with two modules
built with the official SDK, and is killed with everything that it runs. A ledger counts every
message from a module to the hub's event stream.

`MUSTER_TEST_TRAFFIC_S` makes the phases of traffic last so many seconds each, for a longer run.
"""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from support.device import unique
from support.edge_daemon import EdgeDaemon
from support.edge_ledger import DeviceLedger
from support.events import wait_for
from support.site import Site, why_none

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.instance import Instance

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(why_none() is not None, reason=str(why_none())),
]

TRAFFIC_S = float(os.environ.get("MUSTER_TEST_TRAFFIC_S", "3"))
PATIENCE_S = 90.0


class FarDevice:
    """An edge device in a site of its own.

    Args:
        instance: where it belongs.
        site: where it is.
        daemon: its runtime.

    Attributes:
        losses: how often the link was cut, or everything killed.
    """

    def __init__(self, instance: Instance, site: Site, daemon: EdgeDaemon) -> None:
        self.instance = instance
        self.site = site
        self.daemon = daemon
        self.ledger = DeviceLedger(daemon.directory / "ledger")
        self.device_id = unique("far")
        self.losses = 0
        key, _ = instance.dps.enroll(
            self.device_id,
            capabilities={"iotEdge": True},
            iotHubs=[instance.place.hubs[0]],
            allocationPolicy="hashed",
        )
        daemon.configure(self.device_id, key)

    def bring_up(self) -> None:
        """Have it provisioned, and its modules deployed."""
        self.daemon.begin()
        self.wait_provisioned()
        self.ledger.deploy(self.instance, self.device_id)

    def wait_provisioned(self) -> None:
        hub, path = self.instance.hub(), f"/devices/{self.device_id}"

        def is_provisioned() -> bool:
            assert self.daemon.process is not None
            assert self.daemon.process.poll() is None, "the daemon has ended"
            return hub.call("GET", path).status == 200

        wait_for(is_provisioned, PATIENCE_S)

    def cut(self) -> None:
        self.losses += 1
        self.site.cut()

    def power_cut(self) -> None:
        """Kill everything that runs there."""
        self.losses += 1
        process, self.daemon.process = self.daemon.process, None
        self.site.power_cut()
        if process is not None:
            process.wait()

    def die_after(self, packets: int) -> None:
        """Have the link break after so many packets, and kill everything then."""
        self.site.restore(packets)
        self.daemon.begin()
        wait_for(lambda: self.site.is_cut, PATIENCE_S)
        self.power_cut()

    def settle(self) -> None:
        """See that nothing is missing, and end the device."""
        self.ledger.stop()
        # The daemon's sessions say each time that they had to begin anew.
        losses = self.losses + self.daemon.log_text().count("no connection to the hub")
        print(self.ledger.settle(self.instance, self.device_id, losses))
        assert self.daemon.status("sender") == self.daemon.status("receiver") == "running"
        assert self.daemon.end(signal.SIGTERM) == 0
        assert "Traceback" not in self.daemon.log_text()

    def call(self, timeout_s: int) -> tuple[int, int]:
        """Call the receiver's method; return the status of the answer and the code in it."""
        path = f"/twins/{self.device_id}/modules/receiver/methods"
        call = {
            "methodName": "ping",
            "responseTimeoutInSeconds": timeout_s,
            "connectTimeoutInSeconds": 0,
            "payload": {"n": 1},
        }
        reply = self.instance.hub().call("POST", path, call)
        if "Message" in reply.json:
            return reply.status, int(json.loads(reply.json["Message"])["errorCode"])
        return reply.status, int(reply.json["status"])


@contextmanager
def far_device(instance: Instance) -> Iterator[FarDevice]:
    if instance.place.why_not_official is not None:
        pytest.skip(instance.place.why_not_official)
    with Site(instance.place) as site, EdgeDaemon(instance, site=site) as daemon:
        made = FarDevice(instance, site, daemon)
        try:
            yield made
        finally:
            site.power_cut()
            # Shown where the test fails.
            print(f"--- iotedged ---\n{daemon.log_text()[-20_000:]}")


@pytest.fixture
def device(shared_instance: Instance) -> Iterator[FarDevice]:
    with far_device(shared_instance) as made:
        yield made


def test_power_and_link_go_again_and_again_while_it_is_provisioned(device: FarDevice) -> None:
    device.site.cut()
    device.daemon.begin()
    wait_for(lambda: device.site.lost > 0, PATIENCE_S)
    device.power_cut()
    # In the middle of TLS, of the registration, of the first connections to the hub.
    for packets in (3, 14, 30):
        device.die_after(packets)
    device.site.restore()
    device.bring_up()
    device.ledger.wait_accepted(20)
    device.settle()


def test_power_and_link_go_again_and_again_while_it_is_deployed_to(device: FarDevice) -> None:
    device.daemon.begin()
    device.wait_provisioned()
    device.site.restore(10)
    device.ledger.deploy(device.instance, device.device_id)
    wait_for(lambda: device.site.is_cut, PATIENCE_S)
    device.power_cut()
    for packets in (40, 80):
        device.die_after(packets)
    device.site.restore()
    device.daemon.begin()
    device.ledger.wait_accepted(20)
    device.settle()


def test_power_and_link_go_while_messages_flow_and_while_they_drain(device: FarDevice) -> None:
    device.bring_up()
    device.ledger.wait_received()
    time.sleep(TRAFFIC_S)
    device.cut()
    device.ledger.wait_accepted(50)
    device.power_cut()
    # It boots from what it has on disk; modules start, and what they send waits.
    device.daemon.begin()
    device.ledger.wait_accepted(50)
    time.sleep(TRAFFIC_S)
    device.ledger.wait_received()
    device.power_cut()
    for packets in (40, 80):
        device.die_after(packets)
    # Now only the link goes in the middle of it.
    device.site.restore(60)
    device.daemon.begin()
    wait_for(lambda: device.site.is_cut, PATIENCE_S)
    device.losses += 1
    device.ledger.wait_accepted(20)
    device.site.restore()
    device.ledger.wait_accepted(20)
    device.settle()


def test_a_link_that_is_slow_and_loses_a_tenth(device: FarDevice) -> None:
    device.site.shape(delay_s=0.3, loss=0.1)
    device.bring_up()
    device.ledger.wait_received()
    time.sleep(TRAFFIC_S)
    assert device.site.lost
    device.settle()


def test_the_hub_goes_and_comes_back(new_instance: Callable[..., Instance]) -> None:
    instance = new_instance()
    with far_device(instance) as device:
        device.bring_up()
        device.ledger.wait_received()
        time.sleep(TRAFFIC_S)
        instance.restart()
        device.ledger.wait_accepted(50)
        instance.kill9()
        # The device notices, and from then on nothing is on its way.
        device.ledger.wait_accepted(10)
        first = device.ledger.numbers("accepted")[-1]
        device.ledger.wait_accepted(50)
        time.sleep(TRAFFIC_S)
        last = device.ledger.numbers("accepted")[-1]
        instance.start()
        device.losses += 2
        device.ledger.wait_accepted(10)
        device.settle()
        device.ledger.check_urgency(first, last)


def test_wishes_reach_a_module_after_the_cut_and_calls_end_in_time(device: FarDevice) -> None:
    device.bring_up()
    device.ledger.wait_received()
    wait_for(lambda: device.call(30) == (200, 200), PATIENCE_S)
    device.cut()
    # TCP has not noticed, so the hub believes that the device is there.
    assert device.call(5) == (504, 504101)
    path = f"/twins/{device.device_id}/modules/receiver"
    for wish in ("one", "two"):
        patch = {"properties": {"desired": {"wish": wish}}}
        device.instance.hub().must("PATCH", path, patch)
    device.site.restore()
    wait_for(lambda: device.ledger.wish() == "two", PATIENCE_S)
    wait_for(lambda: device.call(30) == (200, 200), PATIENCE_S)
    device.settle()
