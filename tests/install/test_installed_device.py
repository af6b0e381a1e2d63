"""An edge device from bare Debian on: installed, configured, upgraded, rebooted, removed.

systemd runs it, in a machine that reaches the instance and nothing else. Modules are programs:
there is no container engine in it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from muster.edge.daemon.command import BAD_SETTINGS
from support import machine as machines
from support.device import unique
from support.edge_daemon import deploy, process
from support.wheels import renumbered

if TYPE_CHECKING:
    from pathlib import Path

    from support.instance import Instance
    from support.machine import Machine
    from support.site import Site

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(machines.why_none() is not None, reason=str(machines.why_none())),
]

NEWER = "0.1.1"


class Installed:
    """The edge runtime of a machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.must = machine.must

    def main_pid(self) -> int:
        return int(self.must("systemctl", "show", "--value", "--property=MainPID", "iotedged"))

    def status(self, module: str) -> str:
        listed = self._machine.run("iotedge", "list").stdout.splitlines()[1:]
        return next((line.split()[1] for line in listed if line.split()[0] == module), "")

    def wait_running(self, *modules: str) -> None:
        for module in modules:
            self._machine.wait(lambda name=module: self.status(name) == "running", f"{module} runs")

    def pid(self, module: str) -> int:
        """Return the process of a module, which is the same as long as nobody restarts it."""
        run = (self._machine.root / f"var/lib/aziot/edged/modules/{module}/run").read_text()
        found = re.search(r"^child (\d+)", run, re.MULTILINE)
        assert found is not None, run
        return int(found[1])

    def journal(self, *options: str) -> str:
        return self.must("journalctl", "-u", "iotedged", "--no-pager", "-o", "cat", *options)


def counter() -> dict[str, Any]:
    """Return a module with a user of its own that has a child which hears nothing."""
    module = process(
        *("python3", "-u", "-c"),
        "import itertools, subprocess, time\n"
        "subprocess.Popen(['setsid', 'sleep', 'infinity'])\n"
        "for n in itertools.count(): print('count', n); time.sleep(1)",
    )
    module["settings"] |= {"user": "plant", "limits": {"memory": "64m", "processes": 20}}
    return module


def test_an_installed_device(
    shared_instance: Instance, site: Site, machine: Machine, wheels: Path
) -> None:
    device_id = unique("installed")
    key, _ = shared_instance.dps.enroll(
        device_id,
        capabilities={"iotEdge": True},
        iotHubs=[shared_instance.place.hubs[0]],
        allocationPolicy="hashed",
    )
    place, must, device = shared_instance.place, machine.must, Installed(machine)

    # From bare Debian to a module that runs.
    assert "Installed: iotedge 0.1.0" in must("/root/deploy/install-edge.sh", "/root/wheels")
    must(
        *("iotedge", "config", "dps", "--id-scope", shared_instance.id_scope),
        *("--registration-id", device_id, "--symmetric-key", "-"),
        *("--endpoint", f"https://{place.dps}:{place.https_port}"),
        *("--trust", "/root/muster-ca.pem"),
        told=f"{key}\n",
    )
    assert "iotedged is running with it" in must("iotedge", "config", "apply")
    must("useradd", "--system", "plant")
    must("useradd", "--groups", "iotedge", "gwen")
    broken = process("true")
    broken["settings"]["user"] = "nobody-knows"
    deploy(shared_instance, device_id, {"counter": counter(), "broken": broken})
    device.wait_running("counter", "edgeHub")
    counting = device.pid("counter")
    assert must("ps", "-o", "user=", "-p", str(counting)).strip() == "plant"

    # Who belongs to the group needs no sudo, others do.
    assert " running " in must("su", "gwen", "-c", "iotedge list")
    assert "count 0" in must("su", "gwen", "-c", "iotedge logs counter")
    refused = machine.run("su", "plant", "-s", "/bin/sh", "-c", "iotedge list")
    assert refused.returncode == 1
    assert "join the group iotedge" in refused.stderr

    # The service as people look at it.
    assert re.search(r"^    iotedged +Running$", must("iotedge", "system", "status"), re.MULTILINE)
    logs = must("iotedge", "system", "logs", "--", "--no-pager")
    assert device_id in logs
    assert key not in logs
    machine.wait(lambda: "no user nobody-knows" in device.journal("-p", "warning"), "a warning")
    assert "provisioned" in device.journal("-p", "info")
    assert "provisioned" not in device.journal("-p", "warning")
    must("iotedge", "system", "set-log-level", "debug")
    assert "IOTEDGE_LOG=debug" in must("systemctl", "show", "--property=Environment", "iotedged")
    device.wait_running("counter")

    # A daemon that is killed comes back to modules that go on, and so does one that is newer.
    counting, before = device.pid("counter"), device.main_pid()
    must("kill", "-9", str(before))
    machine.wait(lambda: device.main_pid() not in {0, before}, "another daemon")
    device.wait_running("counter")
    assert device.pid("counter") == counting
    renumbered(next(wheels.glob("muster_iot-*")), NEWER, machine.root / "root/wheels")
    assert f"Installed: iotedge {NEWER}" in must("/root/deploy/install-edge.sh", "/root/wheels")
    device.wait_running("counter")
    assert device.pid("counter") == counting
    assert NEWER in must("iotedge", "version")

    # What people do to it.
    assert "Restarted" in must("iotedge", "system", "restart")
    device.wait_running("counter")
    assert "Reprovisioned" in must("iotedge", "system", "reprovision")
    assert "Stopped" in must("iotedge", "system", "stop")
    assert machine.run("pgrep", "--uid", "plant").returncode == 1
    assert "Down - inactive" in must("iotedge", "system", "status")
    must("systemctl", "start", "iotedged")
    device.wait_running("counter")

    # It starts again with the machine, when nobody can be reached.
    site.cut()
    machine.reboot()
    device.wait_running("counter", "edgeHub")
    site.restore()

    # Settings that cannot be used are refused, and nobody tries them for ever.
    config = machine.root / "etc/aziot/config.toml"
    good = config.read_text()
    config.write_text(f"{good}\nnonsense\n")
    refused = machine.run("iotedge", "config", "apply")
    assert (refused.returncode, device.status("counter")) == (1, "running")
    assert machine.run("systemctl", "restart", "iotedged").returncode != 0
    status = must("iotedge", "system", "status")
    assert f"Down - failed: exit-code, exit code {BAD_SETTINGS}" in status
    assert "config.toml" in status
    assert must("systemctl", "show", "--value", "--property=NRestarts", "iotedged") == "0\n"
    config.write_text(good)
    must("iotedge", "config", "apply")
    device.wait_running("counter")

    # And it goes, first without its state.
    for option, stays in (("", True), ("--purge", False)):
        assert "Removed" in must("/root/deploy/uninstall-edge.sh", *option.split())
        assert machine.run("pgrep", "--uid", "plant").returncode == 1
        assert machine.run("systemctl", "cat", "iotedged").returncode != 0
        assert machine.run("iotedge", "version").returncode == 127
        for state in ("var/lib/aziot/edged", "etc/aziot"):
            assert (machine.root / state).exists() is stays
