"""An edge device below another: it reaches that one and nobody else (edge.md 2.4, 6.5).

Two real `iotedged`, each in a site of its own (`support.site`), the site of the lower one behind
that of the upper. Below the lower one are modules and a leaf device, all with the official SDK.
Ledgers count every message up to the hub's event stream, while either link is cut.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from support.device import unique
from support.edge_daemon import EdgeDaemon, deploy, manifest
from support.edge_ledger import MODULES, ROUTES, DeviceLedger
from support.events import events_of, wait_for
from support.site import Site, why_none

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.instance import Instance

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(why_none() is not None, reason=str(why_none())),
]

TRAFFIC_S = float(os.environ.get("MUSTER_TEST_TRAFFIC_S", "3"))
PATIENCE_S = 120.0
UP = {"up": "FROM /messages/* INTO $upstream"}
_DIAL = "import socket, sys; socket.create_connection((sys.argv[1], 443), 3)"


class Pair:
    """An edge device, and one below it.

    Attributes:
        upper: the runtime of the one.
        lower: that of the other.
    """

    def __init__(self, instance: Instance, stack: ExitStack) -> None:
        self.instance = instance
        self.hub = instance.hub()
        self.upper_id, self.lower_id = unique("upper"), unique("lower")
        self.leaf_id = f"{self.lower_id}-leaf"
        self.upper_site = stack.enter_context(Site(instance.place, "upper.edge"))
        self.lower_site = stack.enter_context(
            Site(instance.place, "lower.edge", above=self.upper_site)
        )
        self.upper = stack.enter_context(self._daemon(self.upper_site))
        self.lower = stack.enter_context(self._daemon(self.lower_site))
        self.modules = DeviceLedger(self.lower.directory / "ledger")
        self.leaf = DeviceLedger(self.lower.directory / "leaf")
        self.losses = 0
        self._stack = stack
        stack.callback(self.lower_site.power_cut)

    def _daemon(self, site: Site) -> EdgeDaemon:
        return EdgeDaemon(self.instance, address="0.0.0.0", hostname=site.hostname, site=site)

    # Bringing them up.

    def start_upper(self) -> None:
        """Start the upper one, provisioned by DPS, and wait until its CA is there."""
        key, _ = self.instance.dps.enroll(
            self.upper_id,
            capabilities={"iotEdge": True},
            iotHubs=[self.instance.place.hubs[0]],
            allocationPolicy="hashed",
        )
        self.upper.configure(self.upper_id, key)
        self.upper.begin()
        path = f"/devices/{self.upper_id}"
        wait_for(lambda: self.hub.call("GET", path).status == 200, PATIENCE_S)
        deploy(self.instance, self.upper_id, {}, routes=UP)
        wait_for(self.upper.root.exists, PATIENCE_S)

    def make_lower(self, *, below: bool = True) -> None:
        """Make the lower one's identity, below the upper one or below nobody, as people do."""
        parent = ("--parent", self.upper_id) if below else ()
        made = self.instance.cli(
            *("device", "create", self.lower_id, "--edge", *parent, "--show-keys"),
            *("--hub", self.instance.place.hubs[0]),
        )
        key = made["authentication"]["symmetricKey"]["primaryKey"]
        self.lower.configure_below(
            f"HostName={self.hub.host};DeviceId={self.lower_id};SharedAccessKey={key}", self.upper
        )

    def start_leaf(self) -> None:
        """Start the leaf device below the lower one."""
        scope = self.hub.must("GET", f"/devices/{self.lower_id}")["deviceScope"]
        key, _ = self.hub.create_device(self.leaf_id, deviceScope=scope)
        wait_for(self.lower.root.exists, PATIENCE_S)
        program = str(MODULES / "leaf.py")
        with (self.leaf.directory / "log").open("wb") as log:
            process = subprocess.Popen(
                self.lower_site.command(sys.executable, program),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    **os.environ,
                    "LEDGER": str(self.leaf.directory),
                    "TRUST": str(self.lower.root),
                    "CONNECTION_STRING": f"HostName={self.hub.host};DeviceId={self.leaf_id};"
                    f"SharedAccessKey={key};GatewayHostName={self.lower.hostname}",
                },
            )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)

    def configure_lower(self, name: str, modules: dict[str, Any], priority: int) -> None:
        """Deploy by tags, at scale."""
        body = {
            "id": name,
            "schemaVersion": "2.0",
            "content": manifest(modules, routes=ROUTES | UP),
            "targetCondition": f"tags.line = '{self.lower_id}'",
            "priority": priority,
        }
        self.hub.must("PUT", f"/configurations/{name}", body)

    # What can be seen of the lower one.

    def call(self, path: str, payload: Any) -> tuple[int, Any]:
        """Call a method from the cloud."""
        body = {"methodName": "ping", "payload": payload, "responseTimeoutInSeconds": 30}
        reply = self.hub.call("POST", f"/twins/{path}/methods", body)
        return reply.status, reply.json.get("payload")

    def reported(self, module_id: str) -> dict[str, Any]:
        twin = self.hub.must("GET", f"/twins/{self.lower_id}/modules/{module_id}")
        return dict(twin["properties"]["reported"])

    def identities(self) -> set[str]:
        found = self.hub.must("GET", f"/devices/{self.lower_id}/modules")
        return {each["moduleId"] for each in found}

    def traffic(self, more: int) -> None:
        """Wait until both have sent so many messages more."""
        self.modules.wait_accepted(more)
        self.leaf.wait_accepted(more)

    def settle(self) -> None:
        """See that nothing is missing."""
        self.modules.stop()
        self.leaf.stop()
        again = sum(
            daemon.log_text().count("no connection to the hub")
            for daemon in (self.upper, self.lower)
        )
        losses = self.losses + again
        print(self.modules.settle(self.instance, self.lower_id, losses))
        print(self.leaf.settle_upward(self.instance, self.leaf_id, losses))


@pytest.fixture
def pair(shared_instance: Instance) -> Iterator[Pair]:
    with ExitStack() as stack:
        yield Pair(shared_instance, stack)


def test_an_edge_device_below_another(pair: Pair) -> None:
    hub = pair.hub
    pair.start_upper()
    pair.make_lower()
    tags = {"tags": {"line": pair.lower_id}}
    hub.must("PATCH", f"/twins/{pair.lower_id}", tags)
    pair.configure_lower(f"{pair.lower_id}-1", pair.modules.modules(), 10)
    pair.lower.start()

    # It reaches nobody but the device above it.
    for host, code in (
        (pair.upper.hostname, 0),
        (pair.instance.place.hubs[0], 1),
        (pair.instance.place.dps, 1),
        (pair.upper_site.gateway, 1),
    ):
        command = pair.lower_site.command(sys.executable, "-c", _DIAL, host)
        assert subprocess.run(command, capture_output=True, check=False).returncode == code, host

    # Twins of agent and edge hub, identities and a deployment by tags.
    wait_for(
        lambda: pair.reported("$edgeAgent").get("lastDesiredStatus", {}).get("code") == 200,
        PATIENCE_S,
    )
    assert pair.identities() == {"$edgeAgent", "$edgeHub", "sender", "receiver"}
    pair.modules.wait_received()
    assert pair.lower.status("sender") == pair.lower.status("receiver") == "running"
    known = f"{pair.lower_id}/receiver"
    wait_for(lambda: known in pair.reported("$edgeHub").get("clients", {}), PATIENCE_S)

    # Each speaks with an identity of its own, and is spoken to.
    pair.start_leaf()
    pair.traffic(20)
    (event,) = events_of(pair.instance, pair.lower_id, 1)
    assert event["moduleId"] == "sender"
    (event,) = events_of(pair.instance, pair.leaf_id, 1)
    assert event.get("moduleId") is None
    receiver = f"{pair.lower_id}/modules/receiver"
    wait_for(lambda: pair.call(receiver, [1]) == (200, [1]), PATIENCE_S)
    wait_for(
        lambda: pair.call(f"{pair.lower_id}/modules/$edgeAgent", None) == (200, None), PATIENCE_S
    )
    wait_for(lambda: pair.call(pair.leaf_id, {"a": 1}) == (200, {"a": 1}), PATIENCE_S)
    hub.must("PATCH", f"/twins/{receiver}", {"properties": {"desired": {"wish": "one"}}})
    wait_for(lambda: pair.modules.wish() == "one", PATIENCE_S)
    hub.send_message(pair.leaf_id, b"down")
    messages = pair.leaf.directory / "messages"
    wait_for(lambda: messages.exists() and messages.read_text() == "down\n", PATIENCE_S)

    # The upper link goes: what is below goes on, and so does what it is told locally.
    pair.losses += 1
    pair.upper_site.cut()
    pair.traffic(50)
    hub.must("PATCH", f"/twins/{receiver}", {"properties": {"desired": {"wish": "two"}}})
    pair.modules.wait_received()
    time.sleep(TRAFFIC_S)
    pair.upper_site.restore()
    wait_for(lambda: pair.modules.wish() == "two", PATIENCE_S)

    # The lower one goes, and the power of each.
    pair.losses += 1
    pair.lower_site.cut()
    pair.traffic(50)
    time.sleep(TRAFFIC_S)
    pair.lower_site.restore()
    pair.traffic(20)
    wait_for(lambda: pair.call(receiver, [2]) == (200, [2]), PATIENCE_S)
    pair.losses += 1
    pair.upper.end(signal.SIGKILL)
    pair.traffic(50)
    pair.upper.begin()
    wait_for(lambda: pair.call(receiver, [3]) == (200, [3]), PATIENCE_S)
    pair.settle()

    # What a deployment does not have any more is deleted where it was made.
    rest = {"receiver": pair.modules.modules()["receiver"]}
    pair.configure_lower(f"{pair.lower_id}-2", rest, 20)
    wait_for(lambda: pair.identities() == {"$edgeAgent", "$edgeHub", "receiver"}, PATIENCE_S)
    assert pair.lower.end() == 0
    assert pair.upper.end() == 0


def test_one_that_is_not_below_yet_or_disabled(pair: Pair) -> None:
    pair.start_upper()
    pair.make_lower(below=False)
    pair.lower.start()
    wait_for(lambda: "not in the scope of this device" in pair.lower.log_text(), PATIENCE_S)
    # It is nobody's business to be visited: it comes by itself.
    path = f"/devices/{pair.lower_id}"
    device = pair.hub.must("GET", path)
    scope = pair.hub.must("GET", f"/devices/{pair.upper_id}")["deviceScope"]
    device["parentScopes"] = [scope]
    pair.hub.must("PUT", path, device, if_match="*")
    agent = f"{pair.lower_id}/modules/$edgeAgent"
    wait_for(lambda: pair.call(agent, None) == (200, None), PATIENCE_S)

    for status, expected in (("disabled", 404), ("enabled", 200)):
        device = pair.hub.must("GET", path)
        device["status"] = status
        pair.hub.must("PUT", path, device, if_match="*")
        wait_for(lambda expected=expected: pair.call(agent, None)[0] == expected, PATIENCE_S)
    assert pair.lower.end() == 0
