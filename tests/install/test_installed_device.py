"""An edge device from bare Debian on: installed, configured, upgraded, rebooted, removed.

systemd runs it, in a machine that reaches the instance and nothing else. Modules are programs:
there is no container engine in it.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from muster.edge.check.causes import Cause
from muster.edge.daemon.command import BAD_SETTINGS
from support import machine as machines
from support.device import unique
from support.edge_checks import reported
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
        return int(found[1]) if found else 0

    def supervisor(self, module: str) -> int:
        return int(self.must("ps", "-o", "ppid=", "-p", str(self.pid(module))))

    def journal(self, *options: str) -> str:
        return self.must("journalctl", "-u", "iotedged", "--no-pager", "-o", "cat", *options)


def counter() -> dict[str, Any]:
    """Return a module with a user of its own."""
    module = process(
        *("python3", "-u", "-c"),
        "import itertools, time\nfor n in itertools.count(): print('count', n); time.sleep(1)",
    )
    module["settings"] |= {"user": "plant", "limits": {"memory": "64m", "processes": 20}}
    return module


def stray() -> dict[str, Any]:
    """Return a module with a child that nobody could know for its child."""
    module = process("sh", "-c", "env -i setsid --fork sleep infinity; exec sleep infinity")
    module["settings"]["user"] = "plant"
    return module


def eater() -> dict[str, Any]:
    """Return a module with a child that takes more memory than all of it may have."""
    module = process(
        *("python3", "-u", "-c"),
        "import subprocess, time\n"
        "eat = 'import time; a = bytearray(40_000_000); time.sleep(1000)'\n"
        "children = [subprocess.Popen(['python3', '-c', eat]) for _ in range(3)]\n"
        "while not any(child.poll() for child in children): time.sleep(0.1)\n"
        "print('ended with', *(child.poll() for child in children)); time.sleep(1000)",
    )
    module["settings"] |= {"limits": {"memory": "64m"}}
    return module


def check_limits(machine: Machine, device: Installed, scope: str) -> None:
    """See that `counter` is limited, by its scope or, where that cannot be, its processes."""
    controllers = (machine.root / "sys/fs/cgroup/cgroup.controllers").read_text().split()
    if {"memory", "pids"} <= set(controllers):
        properties = "--property=MemoryMax,MemorySwapMax,TasksMax"
        shown = machine.must("systemctl", "show", properties, scope).split()
        assert set(shown) == {f"MemoryMax={64 << 20}", "MemorySwapMax=0", "TasksMax=21"}
        machine.wait(lambda: "-9" in machine.must("iotedge", "logs", "eater"), "the end of one")
    else:
        print("this machine keeps these controllers in its older hierarchy: limits of processes")
        limits = machine.must("cat", f"/proc/{device.pid('counter')}/limits")
        assert re.search(rf"^Max data size +{64 << 20} ", limits, re.MULTILINE)
        assert re.search(r"^Max processes +20 ", limits, re.MULTILINE)


def without_systemd(machine: Machine) -> str:
    """Hide systemd from the daemon, and return what a check has to say of it."""
    machine.must("mount", "-t", "tmpfs", "none", "/run/systemd")
    try:
        checks = json.loads(machine.run("iotedge", "check", "-o", "json").stdout)["checks"]
    finally:
        machine.must("umount", "/run/systemd")
    return reported(checks, "process-limits", Cause.LIMITS_OF_PROCESSES, "warning")


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
    hub, path = shared_instance.hub(), f"/devices/{device_id}"
    machine.wait(lambda: hub.call("GET", path).status == 200, "the device in its hub")
    must("useradd", "--system", "plant")
    must("useradd", "--groups", "iotedge", "gwen")
    broken = process("true")
    broken["settings"]["user"] = "nobody-knows"
    modules = {"counter": counter(), "stray": stray(), "eater": eater(), "broken": broken}
    deploy(shared_instance, device_id, modules)
    device.wait_running("counter", "stray", "edgeHub")
    counting = device.pid("counter")
    assert must("ps", "-o", "user=", "-p", str(counting)).strip() == "plant"

    # Who belongs to the group needs no sudo, others do.
    assert " running " in must("su", "gwen", "-c", "iotedge list")
    assert "count 0" in must("su", "gwen", "-c", "iotedge logs counter")
    refused = machine.run("su", "plant", "-s", "/bin/sh", "-c", "iotedge list")
    assert refused.returncode == 1
    assert "join the group iotedge" in refused.stderr

    # A module has a control group, which limits it and takes all of it along.
    scope = must("cat", f"/proc/{counting}/cgroup").strip().split("/")[-2]
    assert scope.startswith("iotedge-counter-")
    assert scope in must("systemctl", "list-units", "--plain", "--no-legend", "iotedge-*.scope")
    check_limits(machine, device, scope)
    assert must("pgrep", "--count", "--exact", "sleep") == "2\n"
    must("kill", "-9", str(device.supervisor("stray")))
    must("iotedge", "restart", "stray")
    assert must("pgrep", "--count", "--exact", "sleep") == "2\n"

    assert "systemd does not run" in without_systemd(machine)

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
    assert "reprovisioned" in must("iotedge", "system", "reprovision")
    assert "Stopped" in must("iotedge", "system", "stop")
    assert machine.run("pgrep", "--uid", "plant").returncode == 1
    assert "Down - inactive" in must("iotedge", "system", "status")
    must("systemctl", "start", "iotedged")
    device.wait_running("counter")

    # It starts again with the machine, when nobody can be reached.
    site.cut()
    machine.reboot()
    # It asks its modules to end before anybody ends them.
    assert "Stopping iotedge-" not in must("journalctl", "-b", "-1", "--no-pager", "-o", "cat")
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
