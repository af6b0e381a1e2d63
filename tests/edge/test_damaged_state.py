"""Every file that the runtime keeps is damaged while it is down: it goes on all the same."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.device import unique
from support.edge_daemon import EdgeDaemon, deploy, process
from support.events import events_of

if TYPE_CHECKING:
    from support.instance import Instance

pytestmark = pytest.mark.timeout(240)

SENDER = """\
import os, time
from azure.iot.device import IoTHubModuleClient, Message
client = IoTHubModuleClient.create_from_edge_environment()
client.connect()
client.send_message_to_output(Message('{"pid": %d}' % os.getpid()), "out")
time.sleep(3600)
"""
UNNAMED = {
    "daemon.lock": "it is empty",
    "configuration.json": "it is written anew at each start",
    "edgehub.db-shm": "SQLite makes it anew",
    "edgehub.db-wal": "SQLite leaves out what has no checksum",
    "ca.key": "its certificate is not used either",
}
"""Files that nobody has to hear of, and why."""


def files_of(home: Path) -> list[Path]:
    return sorted(path for path in home.rglob("*") if path.is_file() and not path.is_symlink())


def damage(path: Path, how: str) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        if how == "cut off":
            file.truncate(size // 2)
        else:
            file.write(bytes(size) if how == "zeros" else random.randbytes(size))


def pid_of(program: Path) -> int:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().split(b"\0")[1:2] == [str(program).encode()]:
                return int(path.parent.name)
    raise AssertionError(f"{program} does not run")


@pytest.mark.parametrize("how", ["cut off", "zeros", "noise"])
def test_all_state_is_damaged(shared_instance: Instance, how: str) -> None:
    instance = shared_instance
    if instance.place.why_not_official is not None:
        pytest.skip(instance.place.why_not_official)
    device_id = unique("edge")
    key, _ = instance.dps.enroll(
        device_id,
        capabilities={"iotEdge": True},
        iotHubs=[instance.place.hubs[0]],
        allocationPolicy="hashed",
    )
    with EdgeDaemon(instance) as daemon:
        sender = daemon.directory / "sender.py"
        sender.write_text(SENDER)
        daemon.configure(device_id, key)
        daemon.start()
        daemon.wait(lambda: daemon.status("edgeHub") == "running", "the identity")
        deploy(instance, device_id, {"sender": process(sys.executable, str(sender))})
        daemon.wait(lambda: daemon.status("sender") == "running", "the module")
        events_of(instance, device_id, 1)
        before = pid_of(sender)
        assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
        damaged = files_of(daemon.home)
        assert len(damaged) > 12
        for path in damaged:
            damage(path, how)
        begun = len(daemon.log_text())
        daemon.start()
        daemon.wait(lambda: '"step": "' in daemon.log_text()[begun:], "the agent")
        daemon.wait(lambda: daemon.status("edgeHub") == "running", "the edge hub")
        daemon.wait(lambda: daemon.status("sender") == "running", "the module")
        log = daemon.log_text()[begun:]
        wanted = {path for path in damaged if path.name not in UNNAMED and "log" not in path.parts}
        if how != "cut off":
            # Half of a record is a record still.
            assert f"{daemon.home}/modules/sender/run is damaged" in log
        wanted -= {daemon.home / "modules" / "sender" / "run"}
        if how == "cut off":
            # What is missing of so young a database is in what is left of its log.
            wanted -= {daemon.home / "hub" / "edgehub.db"}
        if how == "noise":
            # Any bytes are a key: that it is another one shows at the hub.
            wanted -= {daemon.home / "master.key"}
        assert {str(path) for path in wanted if str(path) not in log} == set()
        if how == "cut off":
            # What it was made of is in its record: nothing has to be done to what runs.
            assert '"step": "update"' not in log
            assert pid_of(sender) == before
        # The keys of modules are others now, and the hub knows them.
        assert daemon.iotedge("logs", "sender").returncode == 0
        daemon.iotedge("restart", "sender")
        daemon.wait(lambda: pid_of_other(sender, before), "another process")
        found = events_of(instance, device_id, 2 if how == "cut off" else 3)
        assert str(before) in json.dumps(found[0])
        assert str(pid_of(sender)) in json.dumps(found[-1])
        assert daemon.end(signal.SIGTERM) == 0
        assert "Traceback" not in daemon.log_text()


def pid_of_other(program: Path, before: int) -> bool:
    try:
        return pid_of(program) != before
    except AssertionError:
        return False
