"""An edge device of an instance, its edge hub in a child process, behind a wire that can be cut."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from support import edge_hub_child
from support.certificates import self_signed
from support.cut_proxy import CutProxy
from support.device import unique
from support.events import wait_for
from support.run import Run
from support.service import segment

if TYPE_CHECKING:
    from types import TracebackType

    from support.certificates import ClientCertificate
    from support.instance import Instance
    from support.run import Place

STOP_S = 30


class EdgeDevice:
    """One edge device."""

    def __init__(self, instance: Instance, place: Place, directory: Path) -> None:
        self.instance = instance
        self.place = place
        self.directory = directory
        self.hostname = place.dps
        self.hub = instance.hub()
        self.device_id = unique("edge")
        self.key, _ = self.hub.create_device(self.device_id, capabilities={"iotEdge": True})
        self.scope = self.hub.must("GET", f"/devices/{self.device_id}")["deviceScope"]
        self.proxy = CutProxy(
            place.address,
            instance.place.address,
            (instance.place.mqtt_port, instance.place.https_port),
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.log = directory / "edge-hub.log"

    @classmethod
    def make(cls, instance: Instance, directory: Path) -> Self:
        run = Run.current()
        return cls(instance, run.place(run.next_number()), directory)

    def __enter__(self) -> Self:
        self.proxy.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process is not None:
            self.kill9()
        self.proxy.__exit__(kind, error, trace)

    # Identities.

    def module_key(self, module_id: str) -> str:
        """Return the key of a module, made where it is not there."""
        path = f"/devices/{self.device_id}/modules/{segment(module_id)}"
        found = self.hub.call("GET", path)
        if found.status == 404:
            return self.hub.create_module(self.device_id, module_id)[0]
        return str(found.json["authentication"]["symmetricKey"]["primaryKey"])

    def module(self, module_id: str) -> str:
        """Return the connection string of a module."""
        return (
            f"HostName={self.hub.host};DeviceId={self.device_id};ModuleId={module_id};"
            f"SharedAccessKey={self.module_key(module_id)};GatewayHostName={self.hostname}"
        )

    def leaf(self, device_id: str) -> str:
        """Make a leaf device below this one; return its connection string."""
        key, _ = self.hub.create_device(device_id, deviceScope=self.scope)
        return (
            f"HostName={self.hub.host};DeviceId={device_id};SharedAccessKey={key};"
            f"GatewayHostName={self.hostname}"
        )

    def certified_leaf(self, device_id: str, certificate: ClientCertificate) -> None:
        """Make a leaf device below this one that has no key."""
        body = {
            "deviceId": device_id,
            "deviceScope": self.scope,
            "authentication": self_signed(certificate.sha256),
        }
        self.hub.must("PUT", f"/devices/{segment(device_id)}", body)

    def certified_module(self, module_id: str, certificate: ClientCertificate) -> None:
        """Make a module of this device that has no key."""
        body = {
            "deviceId": self.device_id,
            "moduleId": module_id,
            "authentication": self_signed(certificate.sha256),
        }
        self.hub.must("PUT", f"/devices/{self.device_id}/modules/{segment(module_id)}", body)

    def desire(self, **routes: Any) -> None:
        """Deploy these routes."""
        self.configure(routes=routes, storeAndForwardConfiguration={"timeToLiveSecs": 7200})

    def configure(self, **members: Any) -> None:
        """Deploy this configuration of the edge hub."""
        path = f"/twins/{self.device_id}/modules/{segment('$edgeHub')}"
        members = {"schemaVersion": "1.1", **members}
        self.hub.must("PUT", path, {"properties": {"desired": members}})

    @property
    def reported(self) -> dict[str, Any]:
        """What the edge hub reports of itself."""
        twin = self.hub.must("GET", f"/twins/{self.device_id}/modules/{segment('$edgeHub')}")
        return dict(twin["properties"]["reported"])

    # The process.

    @property
    def ca_file(self) -> Path:
        """File of what clients are to trust, PEM; there once the edge hub has started."""
        return self.directory / "trust.pem"

    @property
    def trust(self) -> str:
        """What clients are to trust, PEM."""
        return self.ca_file.read_text()

    def start(self) -> None:
        """Start the edge hub and wait until it listens."""
        setting = {
            "directory": str(self.directory),
            "hub": self.hub.host,
            "deviceId": self.device_id,
            "deviceKey": self.key,
            "edgeHubKey": self.module_key("$edgeHub"),
            "ca": str(self.instance.ca_file),
            "gateway": self.place.address,
            "mqttPort": self.proxy.ports[0],
            "httpsPort": self.proxy.ports[1],
            "hostname": self.hostname,
            "address": self.place.address,
            "ports": [self.place.mqtt_port, self.place.https_port, self.place.amqp_port],
        }
        file = self.directory / "setting.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(setting))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", edge_hub_child.__file__, str(file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self._line() == "ready", self.log.read_text()[-4000:]

    def view(self) -> dict[str, Any]:
        """Return how the edge hub stands."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        return dict(json.loads(self._line()))

    def wait_applied(self) -> None:
        """Wait until the edge hub works as its twin says."""
        path = f"/twins/{self.device_id}/modules/{segment('$edgeHub')}"
        wanted = self.hub.must("GET", path)["properties"]["desired"]["$version"]
        wait_for(lambda: self.reported.get("lastDesiredVersion") == wanted, 60)

    def kill9(self) -> None:
        """End it the hard way."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """End it in good order."""
        return self._end(signal.SIGTERM)

    def _end(self, by: signal.Signals) -> int:
        assert self.process is not None
        process, self.process = self.process, None
        os.kill(process.pid, by)
        try:
            return process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()

    def _line(self) -> str:
        assert self.process is not None
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()
