"""An edge device below another: it reaches that one and nobody else (edge.md 2.4, 6.5).

Two or three real `iotedged`, each in a site of its own (`support.site`), the site of the lower one
behind that of the upper. Below the lowest are modules and a leaf device, all with the official SDK.
Ledgers count every message up to the hub's event stream, while links are cut.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from support.certificates import ClientCertificate, self_signed
from support.device import unique
from support.edge_checks import check, passes
from support.edge_daemon import EdgeDaemon, deploy, manifest
from support.edge_ledger import MODULES, ROUTES, DeviceLedger
from support.events import events_of, wait_for
from support.site import Site, why_none

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.instance import Instance

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(why_none() is not None, reason=str(why_none())),
]

TRAFFIC_S = float(os.environ.get("MUSTER_TEST_TRAFFIC_S", "3"))
PATIENCE_S = 120.0
UP = {"up": "FROM /messages/* INTO $upstream"}
LOWEST = ROUTES | {
    "leaf": "FROM /messages/* WHERE NOT IS_DEFINED($connectionModuleId) INTO $upstream"
}
_DIAL = "import socket, sys; socket.create_connection((sys.argv[1], 443), 3)"


class Tower:
    """Edge devices above each other. The lowest one has modules and a leaf device.

    Args:
        instance: where they belong.
        stack: closes them.
        levels: how many.

    Attributes:
        upper: the runtime of the one on top.
        lower: that of the lowest.
    """

    def __init__(self, instance: Instance, stack: ExitStack, levels: int = 2) -> None:
        self.instance = instance
        self.hub = instance.hub()
        self.ids = [unique(f"level-{level}") for level in range(levels)]
        self.lower_id = self.ids[-1]
        self.leaf_id = f"{self.lower_id}-leaf"
        self.sites: list[Site] = []
        self.daemons: list[EdgeDaemon] = []
        for level in range(levels):
            above = self.sites[-1] if self.sites else None
            site = stack.enter_context(Site(instance.place, f"level-{level}.edge", above))
            stack.callback(site.power_cut)
            self.sites.append(site)
            daemon = EdgeDaemon(instance, address="0.0.0.0", hostname=site.hostname, site=site)
            self.daemons.append(stack.enter_context(daemon))
        self.upper, self.lower = self.daemons[0], self.daemons[-1]
        self.modules = DeviceLedger(self.lower.directory / "ledger")
        self.leaf = DeviceLedger(self.lower.directory / "leaf")
        self.losses = 0
        self._stack = stack
        self._leaf_env: dict[str, str] = {}

    # Bringing them up.

    def start_upper(self) -> None:
        """Start the one on top, provisioned by DPS, and wait until its CA is there."""
        key, _ = self.instance.dps.enroll(
            self.ids[0],
            capabilities={"iotEdge": True},
            iotHubs=[self.instance.place.hubs[0]],
            allocationPolicy="hashed",
        )
        self.upper.configure(self.ids[0], key)
        self.upper.begin()
        path = f"/devices/{self.ids[0]}"
        wait_for(lambda: self.hub.call("GET", path).status == 200, PATIENCE_S)
        self.open(0)

    def make(self, level: int, *, below: bool = True) -> None:
        """Make the identity of one below another, or below nobody, as people do."""
        parent = ("--parent", self.ids[level - 1]) if below else ()
        made = self.instance.cli(
            *("device", "create", self.ids[level], "--edge", *parent, "--show-keys"),
            *("--hub", self.instance.place.hubs[0]),
        )
        key = made["authentication"]["symmetricKey"]["primaryKey"]
        self.daemons[level].configure_below(
            f"HostName={self.hub.host};DeviceId={self.ids[level]};SharedAccessKey={key}",
            self.daemons[level - 1],
        )

    def open(self, level: int) -> None:
        """Have one send on what comes from below; without a route, that would be dropped."""
        deploy(self.instance, self.ids[level], {}, routes=UP)
        path = f"/twins/{self.ids[level]}/modules/$edgeHub"

        def is_open() -> bool:
            properties = self.hub.must("GET", path)["properties"]
            wanted = properties["desired"]["$version"]
            return bool(properties["reported"].get("lastDesiredVersion") == wanted)

        wait_for(is_open, PATIENCE_S)

    def make_leaf(self, certificate: ClientCertificate | None = None) -> None:
        """Make a leaf device below the lowest one, with a certificate or with a key."""
        scope = self.hub.must("GET", f"/devices/{self.lower_id}")["deviceScope"]
        proof = f"HostName={self.hub.host};DeviceId={self.leaf_id}"
        if certificate is None:
            key, _ = self.hub.create_device(self.leaf_id, deviceScope=scope)
            proof += f";SharedAccessKey={key}"
        else:
            own = self_signed(certificate.sha256)
            body = {"deviceScope": scope, "authentication": own}
            self.hub.must("PUT", f"/devices/{self.leaf_id}", body)
            self._leaf_env["CERTIFICATE"] = str(certificate.file)
        self._leaf_env["CONNECTION_STRING"] = f"{proof};GatewayHostName={self.lower.hostname}"

    def start_leaf(self) -> None:
        """Start the leaf device."""
        wait_for(self.lower.root.exists, PATIENCE_S)
        env = {"LEDGER": str(self.leaf.directory), "TRUST": str(self.lower.root)}
        with (self.leaf.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                self.sites[-1].command(sys.executable, str(MODULES / "leaf.py")),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **env, **self._leaf_env},
            )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)

    def power_cut(self) -> None:
        """Kill everything that runs in the lowest site."""
        self.losses += 1
        process, self.lower.process = self.lower.process, None
        self.sites[-1].power_cut()
        if process is not None:
            process.wait()

    def configure_lower(self, name: str, modules: dict[str, Any], priority: int) -> None:
        """Deploy by tags, at scale."""
        body = {
            "id": name,
            "schemaVersion": "2.0",
            "content": manifest(modules, routes=LOWEST),
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
        again = sum(daemon.log_text().count("no connection to the hub") for daemon in self.daemons)
        losses = self.losses + again
        print(self.modules.settle(self.instance, self.lower_id, losses))
        print(self.leaf.settle_upward(self.instance, self.leaf_id, losses))


@contextmanager
def raised(instance: Instance, levels: int = 2) -> Iterator[Tower]:
    """Raise a tower; when a test fails, its daemons say what they logged."""
    with ExitStack() as stack:
        yield Tower(instance, stack, levels)


def test_an_edge_device_below_another(shared_instance: Instance) -> None:
    with raised(shared_instance) as tower:
        hub = tower.hub
        tower.start_upper()
        tower.make(1)
        tags = {"tags": {"line": tower.lower_id}}
        hub.must("PATCH", f"/twins/{tower.lower_id}", tags)
        tower.configure_lower(f"{tower.lower_id}-1", tower.modules.modules(), 10)
        tower.lower.start()

        # It reaches nobody but the device above it.
        for host, code in (
            (tower.upper.hostname, 0),
            (tower.instance.place.hubs[0], 1),
            (tower.instance.place.dps, 1),
            (tower.sites[0].gateway, 1),
        ):
            command = tower.sites[1].command(sys.executable, "-c", _DIAL, host)
            assert subprocess.run(command, capture_output=True, check=False).returncode == code, (
                host
            )

        # Twins of agent and edge hub, identities and a deployment by tags.
        wait_for(
            lambda: tower.reported("$edgeAgent").get("lastDesiredStatus", {}).get("code") == 200,
            PATIENCE_S,
        )
        assert tower.identities() == {"$edgeAgent", "$edgeHub", "sender", "receiver"}
        tower.modules.wait_received()
        assert tower.lower.status("sender") == tower.lower.status("receiver") == "running"
        known = f"{tower.lower_id}/receiver"
        wait_for(lambda: known in tower.reported("$edgeHub").get("clients", {}), PATIENCE_S)

        # It finds all of that well itself.
        checks = check(tower.lower)
        for name in (
            *("parent_hostname", "trust-bundle", "host-connect-iothub-https", "host-local-time"),
            *("host-connect-iothub-mqtt", "iothub-authentication", "edge-hub"),
        ):
            assert passes(checks, name), checks[name]

        # Each speaks with an identity of its own, and is spoken to.
        tower.make_leaf()
        tower.start_leaf()
        tower.traffic(20)
        (event,) = events_of(tower.instance, tower.lower_id, 1)
        assert event["moduleId"] == "sender"
        (event,) = events_of(tower.instance, tower.leaf_id, 1)
        assert event.get("moduleId") is None
        receiver, agent = (
            f"{tower.lower_id}/modules/{name}" for name in ("receiver", "$edgeAgent")
        )
        wait_for(lambda: tower.call(receiver, [1]) == (200, [1]), PATIENCE_S)
        wait_for(lambda: tower.call(agent, None) == (200, None), PATIENCE_S)
        wait_for(lambda: tower.call(tower.leaf_id, {"a": 1}) == (200, {"a": 1}), PATIENCE_S)
        hub.must("PATCH", f"/twins/{receiver}", {"properties": {"desired": {"wish": "one"}}})
        wait_for(lambda: tower.modules.wish() == "one", PATIENCE_S)
        hub.send_message(tower.leaf_id, b"down")
        messages = tower.leaf.directory / "messages"
        wait_for(lambda: messages.exists() and messages.read_text() == "down\n", PATIENCE_S)

        # The upper link goes: what is below goes on.
        tower.losses += 1
        tower.sites[0].cut()
        tower.traffic(50)
        hub.must("PATCH", f"/twins/{receiver}", {"properties": {"desired": {"wish": "two"}}})
        tower.modules.wait_received()
        time.sleep(TRAFFIC_S)
        tower.sites[0].restore()
        wait_for(lambda: tower.modules.wish() == "two", PATIENCE_S)

        # The lower link goes, and the daemon above.
        tower.losses += 1
        tower.sites[1].cut()
        tower.traffic(50)
        time.sleep(TRAFFIC_S)
        tower.sites[1].restore()
        tower.traffic(20)
        wait_for(lambda: tower.call(receiver, [2]) == (200, [2]), PATIENCE_S)
        tower.losses += 1
        tower.upper.end(signal.SIGKILL)
        tower.traffic(50)
        tower.upper.begin()
        wait_for(lambda: tower.call(receiver, [3]) == (200, [3]), PATIENCE_S)
        tower.settle()

        # What a deployment does not have any more is deleted where it was made.
        rest = {"receiver": tower.modules.modules()["receiver"]}
        tower.configure_lower(f"{tower.lower_id}-2", rest, 20)
        wait_for(lambda: tower.identities() == {"$edgeAgent", "$edgeHub", "receiver"}, PATIENCE_S)
        assert tower.lower.end() == 0
        assert tower.upper.end() == 0


def test_one_that_is_not_below_yet_or_disabled(shared_instance: Instance) -> None:
    with raised(shared_instance) as tower:
        tower.start_upper()
        tower.make(1, below=False)
        tower.lower.start()
        wait_for(lambda: "not in the scope of this device" in tower.lower.log_text(), PATIENCE_S)

        def told() -> bool:
            # In between, the one above does not ask the hub again, and says that it does not know.
            found = check(tower.lower)["iothub-authentication"]
            assert found["result"] == "error"
            return "the device above, does not let" in found["details"][0]

        wait_for(told, PATIENCE_S)
        # Nobody has to go there: it comes by itself.
        path = f"/devices/{tower.lower_id}"
        device = tower.hub.must("GET", path)
        device["parentScopes"] = [tower.hub.must("GET", f"/devices/{tower.ids[0]}")["deviceScope"]]
        tower.hub.must("PUT", path, device, if_match="*")
        agent = f"{tower.lower_id}/modules/$edgeAgent"
        wait_for(lambda: tower.call(agent, None) == (200, None), PATIENCE_S)

        for status, expected in (("disabled", 404), ("enabled", 200)):
            device = tower.hub.must("GET", path)
            device["status"] = status
            tower.hub.must("PUT", path, device, if_match="*")
            wait_for(lambda expected=expected: tower.call(agent, None)[0] == expected, PATIENCE_S)
        assert tower.lower.end() == 0


def test_three_levels_and_a_site_that_boots_while_the_cloud_is_away(
    shared_instance: Instance, tmp_path: Path
) -> None:
    with raised(shared_instance, 3) as tower:
        tower.start_upper()
        for level in (1, 2):
            tower.make(level)
            tower.daemons[level].start()
            tower.open(level)
        tower.modules.deploy(tower.instance, tower.lower_id, routes=LOWEST)
        # It has no key with which anybody could speak for it: each level does so for the one below.
        tower.make_leaf(ClientCertificate.make(tmp_path, rsa_key=True))
        tower.start_leaf()
        tower.traffic(20)
        wait_for(lambda: tower.call(tower.leaf_id, {"a": 1}) == (200, {"a": 1}), PATIENCE_S)
        receiver = f"{tower.lower_id}/modules/receiver"
        wait_for(lambda: tower.call(receiver, [1]) == (200, [1]), PATIENCE_S)

        tower.losses += 1
        tower.sites[0].cut()
        tower.traffic(20)
        tower.power_cut()
        tower.lower.begin()
        tower.start_leaf()
        tower.traffic(50)
        tower.sites[0].restore()
        wait_for(lambda: tower.call(receiver, [2]) == (200, [2]), PATIENCE_S)
        tower.settle()
