"""The edge runtime under measurement, beside the service it belongs to."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from benchmarks.load.job import Device, Job
from benchmarks.place import CLOCK, BenchmarkError, server
from benchmarks.service import HOST, KEY, Muster
from muster.auth import sas_token, symmetric_keys

ADDRESS: Final = "127.0.0.2"
"""The edge hub's; it is the device's host name, too."""
DEVICE: Final = "gateway"
MODULE: Final = "sender"
_BIN: Final = Path(sys.executable).parent
_RUNNING: Final = 2
_METRICS: Final = "http://127.0.0.1:9600/metrics"
_LENGTH: Final = "edgehub_queue_length{"
_PATIENCE_S: Final = 120.0
_LOOK_S: Final = 0.1
_ROUTES: Final = {
    "schemaVersion": "1.1",
    "routes": {"up": "FROM /messages/* INTO $upstream"},
    "storeAndForwardConfiguration": {
        "timeToLiveSecs": 86_400,
        "storeLimits": {"maxBytes": 4 * 2**30},
    },
}


def enroll(service: Muster) -> None:
    """Enroll the device with a known key."""
    mechanism = {
        "type": "symmetricKey",
        "symmetricKey": {"primaryKey": KEY, "secondaryKey": KEY},
    }
    body = {
        "registrationId": DEVICE,
        "attestation": mechanism,
        "capabilities": {"iotEdge": True},
    }
    service.dps().call("PUT", f"/enrollments/{DEVICE}", body)


def deploy(service: Muster, modules: int) -> None:
    """Apply a deployment with so many modules that sleep, and a route of everything to the hub."""
    names = [f"sleeper-{number:02}" for number in range(modules)]
    settings = {"command": ["sleep", "1000000"]}
    module = {
        "type": "process",
        "status": "running",
        "restartPolicy": "always",
        "settings": settings,
    }
    system = {
        name: {
            "type": "docker",
            "status": "running",
            "restartPolicy": "always",
            "settings": {"image": name, "createOptions": "{}"},
        }
        for name in ("edgeAgent", "edgeHub")
    }
    agent = {
        "schemaVersion": "1.1",
        "runtime": {"type": "docker", "settings": {}},
        "systemModules": system,
        "modules": dict.fromkeys(names, module),
    }
    content = {
        "modulesContent": {
            "$edgeAgent": {"properties.desired": agent},
            "$edgeHub": {"properties.desired": _ROUTES},
        }
    }
    service.hub().call("POST", f"/devices/{DEVICE}/applyConfigurationContent", content)


def sender(service: Muster) -> Device:
    """Make a module of the device, and say how it logs in to the edge hub."""
    keys = {"primaryKey": KEY, "secondaryKey": KEY}
    body = {
        "deviceId": DEVICE,
        "moduleId": MODULE,
        "authentication": {"type": "sas", "symmetricKey": keys},
    }
    service.hub().call("PUT", f"/devices/{DEVICE}/modules/{MODULE}", body)
    path = f"{HOST}/devices/{DEVICE}/modules/{MODULE}"
    expiry = int(CLOCK.time()) + 86_400
    return Device(
        client_id=f"{DEVICE}/{MODULE}",
        username=f"{HOST}/{DEVICE}/{MODULE}/?api-version=2021-04-12",
        password=sas_token.sign(path, symmetric_keys.decode(KEY), expiry),
        topic=f"devices/{DEVICE}/modules/{MODULE}/messages/events/",
    )


class Edge:
    """A running `iotedged`."""

    def __init__(self, home: Path, sockets: Path, process: subprocess.Popen[bytes]) -> None:
        self._home = home
        self._management = f"unix://{sockets}/mgmt.sock"
        self.process = process

    def running(self) -> int:
        """Return how many modules run, the system's not counted."""
        done = subprocess.run(
            [_BIN / "iotedge", "-H", self._management, "list"],
            capture_output=True,
            text=True,
            check=False,
        )
        rows = [line.split()[:2] for line in done.stdout.splitlines()]
        return sum(row[1:] == ["running"] and row[0].startswith("sleeper") for row in rows)

    def waiting(self) -> int:
        """Return how many messages its edge hub holds."""
        with urllib.request.urlopen(_METRICS, timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        values = [line.rpartition(" ")[2] for line in lines if line.startswith(_LENGTH)]
        return int(sum(map(float, values)))

    def stored(self) -> int:
        """Return what the files of its edge hub take on disk, in bytes."""
        return sum(512 * file.stat().st_blocks for file in (self._home / "hub").iterdir())

    def job(self, ca_file: Path, device: Device, **fields: Any) -> Job:
        """Return a job of a module that sends through the edge hub."""
        base: dict[str, Any] = {
            "kind": "telemetry",
            "address": ADDRESS,
            "port": 8883,
            "host": ADDRESS,
            "ca_file": str(ca_file),
            "pids": [self.process.pid],
            "devices": [device],
        }
        return Job(**(base | fields))

    @property
    def ca_file(self) -> Path:
        """The root of the device's own CA, which its clients trust."""
        (found,) = self._home.glob("**/*root*.pem")
        return found


@contextlib.contextmanager
def edge(work: Path, service: Muster) -> Iterator[Edge]:
    """Configure a device as people do, and run it; the enrollment is there."""
    home, config = work / "edge", work / "config.toml"
    # A socket's path has 107 bytes at most.
    with TemporaryDirectory(prefix="edge-") as sockets:
        command: list[str | Path] = [
            *(_BIN / "iotedge", "config", "dps", "--id-scope", service.facts["idScope"]),
            *("--registration-id", DEVICE, "--symmetric-key", "-", "--force"),
            *("--endpoint", f"https://{HOST}", "--trust", service.facts["caFile"]),
            *("--hostname", ADDRESS, "-o", config),
        ]
        subprocess.run(command, input=KEY.encode(), capture_output=True, check=True)
        config.write_text(
            f'homedir = "{home}"\n{config.read_text()}\n'
            f'[listen]\nmanagement_uri = "unix://{sockets}/mgmt.sock"\n'
            f'workload_uri = "unix://{sockets}/workload.sock"\n'
            f'[edge_hub]\naddress = "{ADDRESS}"\n'
            '[moby_runtime]\nuri = "unix:///nonexistent/docker.sock"\n'
        )
        ready = Path(sockets) / "mgmt.sock"
        with server(
            [_BIN / "iotedged", "-c", config], work / "iotedged.log", lambda _: ready.exists()
        ) as process:
            yield Edge(home, Path(sockets), process)


def until(done: Callable[[], bool], what: str, patience_s: float = _PATIENCE_S) -> float:
    """Wait for something; return the seconds it took.

    Raises:
        BenchmarkError: it did not happen in time.
    """
    start = CLOCK.monotonic()
    while not done():
        if CLOCK.monotonic() - start > patience_s:
            raise BenchmarkError(f"{what} did not happen in {patience_s:.0f} s")
        time.sleep(_LOOK_S)
    return CLOCK.monotonic() - start


def provisioned(service: Muster) -> bool:
    """Tell whether the device has come to the service."""
    try:
        service.hub().call("GET", f"/twins/{DEVICE}/modules/$edgeAgent")
    except BenchmarkError:
        return False
    return True


@contextlib.contextmanager
def sending(work: Path, service: Muster) -> Iterator[tuple[Edge, Device]]:
    """Run a device that is provisioned, with routes and a module that sends; yield both."""
    enroll(service)
    with edge(work, service) as found:
        until(lambda: provisioned(service), "provisioning")
        deploy(service, _RUNNING)
        until(lambda: found.running() == _RUNNING, f"{_RUNNING} running modules")
        # Not before: a module that the deployment does not name is deleted with it.
        yield found, sender(service)
