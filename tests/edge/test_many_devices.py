"""Many edge runtimes of one site: a deployment reaches all, and their return is no storm.

`MUSTER_TEST_RUNTIMES` says how many; 200 are the measure, in the suite there are fewer. Several
daemons share a process (`many_daemons` says why), everything else is as on that many devices: real
registrations from one enrollment group, real connections over one link, real process modules.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.edge_daemon import process
from support.events import wait_for
from support.secrets import CLOCK, derive
from support.site import Site, why_none

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from support.instance import Instance
    from support.site import Attempt

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(why_none() is not None, reason=str(why_none())),
]

COUNT = int(os.environ.get("MUSTER_TEST_RUNTIMES", "20"))
IN_A_PROCESS = 50
PATIENCE_S = 60.0 + 3 * COUNT
AWAY_S = 10.0
MOST = 8
"""Connections that a device may try to open until it is back: it needs four or five."""
MOST_AWAY = 10
"""Connections that a device may try to open in `AWAY_S` while the hub is away, with all sessions:
one after the other at once would be hundreds."""
SPREAD_S = 6
"""Seconds, at least, in which connections are tried after a power cut: they begin over 20."""
PROGRAM = Path(__file__).with_name("many_daemons.py")
CONFIGURATION = """\
hostname = "{address}"
homedir = "{home}"
trust_bundle_cert = "file://{ca_file}"
[provisioning]
source = "dps"
global_endpoint = "https://{dps}:443"
id_scope = "{id_scope}"
[provisioning.attestation]
method = "symmetric_key"
registration_id = "{registration_id}"
symmetric_key = {{ value = "{key}" }}
[listen]
management_uri = "unix://{home}-m.sock"
workload_uri = "unix://{home}-w.sock"
[moby_runtime]
uri = "unix:///nonexistent/docker.sock"
[edge_hub]
address = "{address}"
"""


class Plant:
    """A site with many devices.

    Args:
        instance: where they belong.
        site: where they are.
        directory: of all their files.
    """

    def __init__(self, instance: Instance, site: Site, directory: Path) -> None:
        self.instance = instance
        self.site = site
        self.directory = directory
        self._processes: list[subprocess.Popen[str]] = []
        self._log = directory / "log.txt"
        key, _ = instance.dps.enroll_group(
            "plant",
            capabilities={"iotEdge": True},
            iotHubs=[instance.place.hubs[0]],
            allocationPolicy="hashed",
            initialTwin={"tags": {"site": "plant"}},
        )
        self._files = [self._configure(number, key) for number in range(COUNT)]

    def _configure(self, number: int, group_key: str) -> Path:
        registration_id = f"runtime-{number}"
        file = self.directory / f"{number}.toml"
        file.touch(mode=0o600)
        file.write_text(
            CONFIGURATION.format(
                # Addresses of the site's own loopback device.
                address=f"127.50.{number // 250}.{number % 250 + 1}",
                home=self.directory / str(number),
                ca_file=self.instance.ca_file,
                dps=self.instance.place.dps,
                id_scope=self.instance.id_scope,
                registration_id=registration_id,
                key=derive(group_key, registration_id),
            )
        )
        return file

    def start(self) -> None:
        """Start all."""
        for first in range(0, COUNT, IN_A_PROCESS):
            command = self.site.command(
                sys.executable, "-P", PROGRAM, *self._files[first : first + IN_A_PROCESS]
            )
            with self._log.open("ab") as log:
                self._processes.append(
                    subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE,
                        stderr=log,
                        text=True,
                    )
                )

    def wait_started(self) -> None:
        """Wait until each has its management API."""
        for each in self._processes:
            assert each.stdout is not None
            assert each.stdout.readline() == "started\n", self.log_text()[-5000:]

    def power_cut(self) -> None:
        """Kill everything."""
        self.site.power_cut()
        self._reap()

    def end(self) -> None:
        """End all in good order."""
        for each in self._processes:
            each.send_signal(signal.SIGTERM)
        for each in self._processes:
            assert each.wait(PATIENCE_S) == 0
        self._reap()

    def _reap(self) -> None:
        for each in self._processes:
            each.wait()
            assert each.stdout is not None
            each.stdout.close()
        self._processes = []

    def log_text(self) -> str:
        return self._log.read_text(errors="replace")

    # What is known of them.

    def agents(self, condition: str) -> int:
        """Return how many agents the hub says this of."""
        query = (
            "SELECT COUNT() AS n FROM devices.modules "
            f"WHERE moduleId = '$edgeAgent' AND {condition}"
        )
        rows = self.instance.hub().must("POST", "/devices/query", {"query": query})
        return int(rows[0]["n"]) if rows else 0

    def wait_connected(self, count: int) -> None:
        wait_for(lambda: self.agents("connectionState = 'Connected'") == count, PATIENCE_S)

    def deploy(self, version: str, priority: int) -> None:
        """Roll a deployment out to the site, whose module leaves a mark on each device."""
        script = f'touch "{self.directory}/{version}-$IOTEDGE_DEVICEID"; exec sleep 3600'
        agent = {
            "schemaVersion": "1.1",
            "runtime": {"type": "docker", "settings": {}},
            "systemModules": {
                name: {
                    "type": "docker",
                    "status": "running",
                    "restartPolicy": "always",
                    "settings": {"image": name},
                }
                for name in ("edgeAgent", "edgeHub")
            },
            "modules": {"idle": process("sh", "-c", script)},
        }
        hub = {
            "schemaVersion": "1.1",
            "routes": {},
            "storeAndForwardConfiguration": {"timeToLiveSecs": 7200},
        }
        content = {
            "modulesContent": {
                "$edgeAgent": {"properties.desired": agent},
                "$edgeHub": {"properties.desired": hub},
            }
        }
        body = {
            "id": version,
            "content": content,
            "targetCondition": "tags.site = 'plant'",
            "priority": priority,
        }
        self.instance.hub().must("PUT", f"/configurations/{version}", body)

    def wait_converged(self, version: str) -> None:
        """Wait until every device runs a deployment, by its own word and in fact."""

        def counts() -> dict[str, Any]:
            found = self.instance.hub().must("GET", f"/configurations/{version}")
            return dict(found["systemMetrics"]["results"])

        wanted = {"targetedCount": COUNT, "appliedCount": COUNT, "reportedSuccessfulCount": COUNT}
        wait_for(lambda: wanted.items() <= counts().items(), PATIENCE_S)
        self.wait_marked(version)

    def wait_marked(self, version: str) -> None:
        """Wait until the module of a deployment has run on every device."""
        wait_for(lambda: len(self._marks(version)) == COUNT, PATIENCE_S)

    def unmark(self, version: str) -> None:
        """Forget that the module of a deployment has run."""
        for mark in self._marks(version):
            mark.unlink()

    def _marks(self, version: str) -> list[Path]:
        return list(self.directory.glob(f"{version}-runtime-*"))


@pytest.fixture
def plant(new_instance: Callable[..., Instance]) -> Iterator[Plant]:
    instance = new_instance()
    if instance.place.why_not_official is not None:
        pytest.skip(instance.place.why_not_official)
    # A short name: paths of sockets have 107 bytes at most.
    directory = Path(tempfile.mkdtemp(prefix="plant-"))
    directory.chmod(0o755)
    try:
        with Site(instance.place) as site:
            made = Plant(instance, site, directory)
            try:
                yield made
            finally:
                made.power_cut()
    finally:
        print(made.log_text()[-20_000:])
        shutil.rmtree(directory, ignore_errors=True)


def told(what: str, attempts: Sequence[Attempt], began_s: float) -> Counter[int]:
    """Print how many connections were tried in which second, and return it."""
    each = Counter(int(attempt.at_s - began_s) for attempt in attempts)
    worst = max(each.values(), default=0)
    print(f"{what}: {len(attempts)} attempts, at most {worst} in a second: {sorted(each.items())}")
    return each


def test_a_deployment_reaches_all_and_a_restart_of_the_site_is_no_storm(plant: Plant) -> None:
    site = plant.site
    began_s = CLOCK.monotonic()
    plant.start()
    plant.wait_started()
    plant.wait_connected(COUNT)
    told("first start", site.attempts, began_s)
    print(f"{COUNT} runtimes provisioned and connected in {CLOCK.monotonic() - began_s:.1f} s")

    for version, priority in (("first", 1), ("second", 2)):
        began_s = CLOCK.monotonic()
        plant.deploy(version, priority)
        plant.wait_converged(version)
        print(f"{version} deployment converged in {CLOCK.monotonic() - began_s:.1f} s")

    # The power goes and comes back. Modules run at once; the devices come one after the other.
    plant.power_cut()
    plant.wait_connected(0)
    plant.unmark("second")
    site.attempts.clear()
    began_s = CLOCK.monotonic()
    plant.start()
    plant.wait_started()
    plant.wait_marked("second")
    print(f"all modules run {CLOCK.monotonic() - began_s:.1f} s after the power")
    plant.wait_connected(COUNT)
    print(f"all back {CLOCK.monotonic() - began_s:.1f} s after the power")
    tried = told("after the power", site.attempts, began_s)
    assert tried.total() <= MOST * COUNT
    assert len(tried) >= SPREAD_S
    assert max(tried.values()) <= tried.total() / 2

    # The same, and the line comes back after the power: all are at the door.
    plant.power_cut()
    plant.wait_connected(0)
    site.cut()
    plant.start()
    plant.wait_started()
    lost = site.lost
    wait_for(lambda: site.lost >= lost + 2 * COUNT, PATIENCE_S)
    site.attempts.clear()
    site.restore()
    began_s = CLOCK.monotonic()
    plant.wait_connected(COUNT)
    print(f"all back {CLOCK.monotonic() - began_s:.1f} s after the link")
    assert told("after the link", site.attempts, began_s).total() <= MOST * COUNT

    # The hub goes for a while, and nobody storms it, neither meanwhile nor afterwards.
    plant.instance.kill9()
    site.attempts.clear()
    began_s = CLOCK.monotonic()
    wait_for(lambda: CLOCK.monotonic() > began_s + AWAY_S, PATIENCE_S)
    assert told("while the hub is away", site.attempts, began_s).total() <= MOST_AWAY * COUNT
    plant.instance.start()
    site.attempts.clear()
    began_s = CLOCK.monotonic()
    plant.wait_connected(COUNT)
    print(f"all back {CLOCK.monotonic() - began_s:.1f} s after the hub")
    assert told("after the hub", site.attempts, began_s).total() <= MOST * COUNT
    plant.end()
    assert "Traceback" not in plant.log_text()
