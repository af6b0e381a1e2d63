"""A real `iotedged` process and everything a test does to it from the outside."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from support.run import Run
from support.secrets import CLOCK

if TYPE_CHECKING:
    from types import TracebackType

    from support.instance import Instance
    from support.site import Site

IOTEDGED = Path(sys.executable).parent / "iotedged"
IOTEDGE = Path(sys.executable).parent / "iotedge"
PATIENCE_S = 60.0


class EdgeDaemon:
    """One daemon with a home of its own. Use it as a context manager.

    Args:
        instance: where its provisioning service and hubs are.
        engine_uri: of the container engine; the default leads nowhere.
        address: where its edge hub listens, an address of its own.
        hostname: what modules call it; the address.
        network: table of the containers' network.
        site: where it is to run; `None` for here.

    Attributes:
        environment: variables it gets besides.
    """

    def __init__(
        self,
        instance: Instance,
        engine_uri: str = "unix:///nonexistent/docker.sock",
        *,
        address: str | None = None,
        hostname: str | None = None,
        network: str = "",
        site: Site | None = None,
    ) -> None:
        self._instance = instance
        self._site = site
        self._engine_uri = engine_uri
        self._network = network
        run = Run.current()
        number = run.next_number()
        # The SDKs know no ports but the official ones, so each daemon has an address of its own.
        self.address = address or f"127.{150 + run.slot}.{number // 250}.{number % 250 + 1}"
        self.hostname = hostname or self.address
        # A short name: paths of sockets have 107 bytes at most.
        self.directory = Path(tempfile.mkdtemp(prefix="edged-"))
        self.directory.chmod(0o755)
        self.home = self.directory / "home"
        self.config = self.directory / "config.toml"
        self.management = f"unix://{self.directory}/mgmt.sock"
        self.log = self.directory / "log.txt"
        self.process: subprocess.Popen[bytes] | None = None
        self.environment: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        code = self.end()
        if kind is not None:
            print(f"--- iotedged, which ended with {code} ---\n{self.log_text()[-20_000:]}")
        shutil.rmtree(self.directory, ignore_errors=True)

    def configure(
        self, registration_id: str, key: str, *, endpoint: str | None = None, more: str = ""
    ) -> None:
        """Write the configuration as people do, and add what makes it a test's."""
        place = self._instance.place
        done = subprocess.run(
            [
                *(IOTEDGE, "config", "dps", "--id-scope", self._instance.id_scope),
                *("--registration-id", registration_id, "--symmetric-key", "-"),
                *("--endpoint", endpoint or f"https://{place.dps}:{place.https_port}"),
                *("--trust", self._instance.ca_file, "--hostname", self.hostname),
                *("-o", self.config, "--force"),
            ],
            input=f"{key}\n",
            text=True,
            capture_output=True,
            check=True,
        )
        assert key not in done.stdout + done.stderr
        text = self.config.read_text()
        self.config.write_text(f'homedir = "{self.home}"\n{text}{self._tables()}{more}')

    def configure_below(self, connection_string: str, parent: EdgeDaemon) -> None:
        """Write the configuration of a device below another one, which is up."""
        done = subprocess.run(
            [
                *(IOTEDGE, "config", "mp", "-c", "-", "--parent-hostname", parent.hostname),
                *("--trust", parent.root, "--hostname", self.hostname),
                *("-o", self.config, "--force"),
            ],
            input=f"{connection_string}\n",
            text=True,
            capture_output=True,
            check=True,
        )
        assert connection_string not in done.stdout + done.stderr
        text = self.config.read_text()
        self.config.write_text(f'homedir = "{self.home}"\n{text}{self._tables()}')

    @property
    def root(self) -> Path:
        """The certificate that leaf devices, and devices below this one, are to trust."""
        return self.home / "certificates" / "root.pem"

    def _tables(self) -> str:
        return (
            f'\n[listen]\nmanagement_uri = "{self.management}"\n'
            f'workload_uri = "unix://{self.directory}/workload.sock"\n'
            f'[moby_runtime]\nuri = "{self._engine_uri}"\n{self._network}'
            f'[edge_hub]\naddress = "{self.address}"\n'
        )

    def start(self, *options: str) -> None:
        """Start it, and wait until its management API answers."""
        self.begin(*options)
        # The command takes a second of processor time, so it is run when there is a listener.
        self.wait(self._listens, "the management socket")
        self.wait(lambda: self.iotedge("list").returncode == 0, "the management API")

    def begin(self, *options: str) -> None:
        """Start it, and do not wait for anything."""
        command = [str(IOTEDGED), "-c", str(self.config), *options]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command if self._site is None else self._site.command(*command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "NO_COLOR": "1", **self.environment},
            )

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(self.management.removeprefix("unix://")) == 0

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it, and wait; return its exit code."""
        if self.process is None:
            return 0
        self.process.send_signal(number)
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"iotedged did not end:\n{self.log_text()[-5000:]}") from None
        finally:
            self.process = None

    def iotedge(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `iotedge …` against it, where it is."""
        command = [str(IOTEDGE), "-H", self.management, *arguments]
        return subprocess.run(
            command if self._site is None else self._site.command(*command),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            env={**os.environ, "NO_COLOR": "1"},
        )

    def status(self, module: str) -> str:
        """Return the status of a module as `iotedge list` shows it; empty for none."""
        for line in self.iotedge("list").stdout.splitlines()[1:]:
            name, status = line.split()[:2]
            if name == module:
                return status
        return ""

    def wait(self, condition: Any, what: str) -> None:
        """Wait until something is so."""
        end = CLOCK.monotonic() + PATIENCE_S
        while not condition():
            gone = self.process is not None and self.process.poll() is not None
            if gone or CLOCK.monotonic() > end:
                raise AssertionError(f"in vain: {what}\n{self.log_text()[-8000:]}")
            time.sleep(0.1)

    def resident(self) -> int:
        """Return the memory that the process has, in bytes."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
        return int(line.split()[1]) * 1024

    def log_text(self) -> str:
        """Return what it has logged."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def deploy(
    instance: Instance,
    device_id: str,
    modules: dict[str, Any],
    *,
    registries: dict[str, Any] | None = None,
    hub_env: dict[str, str] | None = None,
    **hub: Any,
) -> None:
    """Apply a deployment to a device.

    Args:
        instance: whose device it is.
        device_id: of it.
        modules: of the deployment, by name.
        registries: `registryCredentials` of it.
        hub_env: environment of the edge hub.
        hub: desired properties of the edge hub, in place of the usual ones.
    """
    content = manifest(modules, registries=registries, hub_env=hub_env, **hub)
    path = f"/devices/{device_id}/applyConfigurationContent"
    reply = instance.hub().call("POST", path, content)
    assert reply.status in (200, 204), reply.body


def manifest(
    modules: dict[str, Any],
    *,
    registries: dict[str, Any] | None = None,
    hub_env: dict[str, str] | None = None,
    **hub: Any,
) -> dict[str, Any]:
    """Return the content of a deployment; see `deploy`."""
    return {
        "modulesContent": {
            "$edgeAgent": {
                "properties.desired": {
                    "schemaVersion": "1.1",
                    "runtime": {
                        "type": "docker",
                        "settings": {"registryCredentials": registries or {}},
                    },
                    "systemModules": {
                        "edgeAgent": {"type": "docker", "settings": {"image": "a"}},
                        "edgeHub": {
                            "type": "docker",
                            "settings": {"image": "h"},
                            "status": "running",
                            "restartPolicy": "always",
                            "env": {
                                name: {"value": value} for name, value in (hub_env or {}).items()
                            },
                        },
                    },
                    "modules": modules,
                }
            },
            "$edgeHub": {
                "properties.desired": {
                    "schemaVersion": "1.1",
                    "routes": {"up": "FROM /messages/* INTO $upstream"},
                    "storeAndForwardConfiguration": {"timeToLiveSecs": 7200},
                    **hub,
                }
            },
        }
    }


def process(*command: str, **fields: Any) -> dict[str, Any]:
    """Return a process module of a deployment."""
    return {
        "type": "process",
        "status": "running",
        "restartPolicy": "always",
        "settings": {"command": list(command)},
        **fields,
    }
