"""The service as its how-to installs it: systemd runs it as a user of its own."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from support import machine as machines
from support.wheels import ROOT, closure, pack

if TYPE_CHECKING:
    from pathlib import Path

    from support.machine import Machine

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(machines.why_none() is not None, reason=str(machines.why_none())),
]

FROM_SOURCES = "pip install '.[server]'"
FROM_WHEELS = "pip install --quiet --no-index --find-links /root/server 'muster-iot[server]'"


def test_the_service_of_the_how_to(machine: Machine, tmp_path: Path) -> None:
    for one in closure("muster-iot", "server").values():
        pack(one, tmp_path)
    shutil.copytree(tmp_path, machine.root / "root/server")
    text = (ROOT / "docs/how-to/run-as-a-service.md").read_text()
    commands = next(iter(re.findall(r"As root.*?```bash\n(.*?)```", text, re.DOTALL)))
    assert FROM_SOURCES in commands

    machine.must("sh", "-euc", f"cd /root\n{commands.replace(FROM_SOURCES, FROM_WHEELS)}")
    info = machine.must("/opt/muster/bin/muster", "info", "--json", "--data-dir", "/var/lib/muster")
    ports = json.loads(info)["ports"]
    assert (ports["https"], ports["mqtt"], ports["amqp"]) == (443, 8883, 5671)
    main = machine.must("systemctl", "show", "--value", "--property=MainPID", "muster").strip()
    assert machine.must("ps", "-o", "user=", "-p", main).strip() == "muster"
    machine.must("useradd", "guest")
    assert machine.run("su", "guest", "-c", "ls /var/lib/muster").returncode != 0

    machine.must("systemctl", "restart", "muster")
    machine.must("systemctl", "stop", "muster")
    ended = machine.must("systemctl", "show", "--property=Result,ExecMainStatus", "muster")
    assert set(ended.split()) == {"Result=success", "ExecMainStatus=0"}
