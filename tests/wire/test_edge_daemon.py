"""The whole edge runtime against the whole service: real processes, and the official SDK."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.device import unique
from support.edge_daemon import IOTEDGED, EdgeDaemon, deploy, process
from support.events import events_of
from support.instance import Instance
from support.secrets import new_key

pytestmark = pytest.mark.timeout(240)

SENDER = """\
import json, os, sys, time
from azure.iot.device import IoTHubModuleClient, Message
client = IoTHubModuleClient.create_from_edge_environment()
client.connect()
client.send_message_to_output(Message(json.dumps({"from": os.environ["IOTEDGE_MODULEID"]})), "out")
print("sent", flush=True)
time.sleep(3600)
"""


@pytest.fixture
def daemon(shared_instance: Instance) -> Iterator[EdgeDaemon]:
    with _daemon_of(shared_instance) as made:
        yield made


def _daemon_of(instance: Instance) -> EdgeDaemon:
    if instance.place.why_not_official is not None:
        pytest.skip(instance.place.why_not_official)
    return EdgeDaemon(instance)


def _enrolled(instance: Instance) -> tuple[str, str]:
    device_id = unique("edge")
    key, _ = instance.dps.enroll(
        device_id,
        capabilities={"iotEdge": True},
        iotHubs=[instance.place.hubs[0]],
        allocationPolicy="hashed",
    )
    return device_id, key


def _running(daemon: EdgeDaemon, instance: Instance, module: str, *command: str) -> str:
    """Bring a device up with one module, and return its ID."""
    device_id, key = _enrolled(instance)
    daemon.configure(device_id, key)
    daemon.start()
    daemon.wait(lambda: daemon.status("edgeHub") == "running", "the identity")
    deploy(instance, device_id, {module: process(*command)})
    daemon.wait(lambda: daemon.status(module) == "running", "the module")
    return device_id


def _pids(word: str) -> set[int]:
    """Return the processes of `sleep` with an argument that only one test uses."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            arguments = path.read_bytes().split(b"\0")
            if word.encode() in arguments[:-1] and arguments[0] == b"sleep":
                found.add(int(path.parent.name))
    return found


def test_a_module_with_the_official_sdk_sends_through_the_device(
    daemon: EdgeDaemon, shared_instance: Instance
) -> None:
    sender = daemon.directory / "sender.py"
    sender.write_text(SENDER)
    device_id = _running(daemon, shared_instance, "sender", sys.executable, str(sender))
    (event,) = events_of(shared_instance, device_id, 1)
    assert "sender" in json.dumps(event)
    logs = daemon.iotedge("logs", "sender")
    assert "sent" in logs.stdout
    listed = daemon.iotedge("list").stdout.splitlines()
    assert listed[0] == "NAME             STATUS           DESCRIPTION      Config"
    assert [line.split()[0] for line in listed[1:]] == ["edgeAgent", "edgeHub", "sender"]
    assert daemon.end(signal.SIGTERM) == 0
    assert "Traceback" not in daemon.log_text()


def test_modules_run_though_nobody_can_be_reached(
    new_instance: Callable[..., Instance],
) -> None:
    instance = new_instance()
    with _daemon_of(instance) as daemon:
        mark = f"{3600 + int(daemon.address.rpartition('.')[2])}.25"
        _running(daemon, instance, "idle", "sleep", mark)
        # SIGTERM stops modules; the device comes up again, and there is nothing but itself.
        assert daemon.end(signal.SIGTERM) == 0
        assert _pids(mark) == set()
        instance.kill9()
        daemon.start()
        daemon.wait(lambda: daemon.status("idle") == "running", "the module")
        assert len(_pids(mark)) == 1
        assert daemon.end(signal.SIGTERM) == 0


def test_modules_outlive_the_daemon_unless_it_is_told_to_stop(
    daemon: EdgeDaemon, shared_instance: Instance
) -> None:
    mark = f"{7200 + int(daemon.address.rpartition('.')[2])}.5"
    _running(daemon, shared_instance, "idle", "sleep", mark)
    (pid,) = _pids(mark)
    for number in (signal.SIGKILL, signal.SIGINT):
        assert daemon.end(number) == (-signal.SIGKILL if number is signal.SIGKILL else 0)
        assert _pids(mark) == {pid}
        daemon.start()
        daemon.wait(lambda: daemon.status("idle") == "running", "the module")
        assert _pids(mark) == {pid}
    assert daemon.end(signal.SIGTERM) == 0
    assert _pids(mark) == set()


def test_people_see_a_device_that_waits_for_its_identity(
    daemon: EdgeDaemon, shared_instance: Instance
) -> None:
    device_id, key = _enrolled(shared_instance)
    other = new_key()
    daemon.configure(device_id, other)
    daemon.start()
    daemon.wait(lambda: "not provisioned" in daemon.log_text(), "the refusal")
    assert daemon.status("edgeAgent") == "running"
    assert daemon.status("edgeHub") == ""
    assert key not in daemon.log_text()
    assert other not in daemon.log_text()
    refused = daemon.iotedge("restart", "edgeHub")
    assert refused.returncode == 1
    assert refused.stderr.startswith("Could not restart edgeHub\n\tcaused by: this device is not")
    assert daemon.end(signal.SIGTERM) == 0


def test_settings_that_cannot_be_used_end_with_153(daemon: EdgeDaemon) -> None:
    daemon.config.write_text("[provisioning]\nsource = 'dps'\n")
    daemon.config.chmod(0o600)
    done = subprocess.run(
        [IOTEDGED, "-c", daemon.config], capture_output=True, text=True, check=False
    )
    assert done.returncode == 153
    assert f"{daemon.config}:1: provisioning" in done.stderr


def test_a_second_daemon_leaves_the_first_alone(
    daemon: EdgeDaemon, shared_instance: Instance
) -> None:
    device_id, key = _enrolled(shared_instance)
    daemon.configure(device_id, key)
    daemon.start()
    second = subprocess.run(
        [IOTEDGED, "-c", daemon.config], capture_output=True, text=True, check=False
    )
    assert second.returncode == 1
    assert f"another daemon runs with {daemon.home}" in second.stderr
    assert daemon.status("edgeAgent") == "running"
    assert daemon.end(signal.SIGTERM) == 0


def test_the_edge_hub_comes_up_again_after_trouble_with_its_database(
    daemon: EdgeDaemon, shared_instance: Instance
) -> None:
    _running(daemon, shared_instance, "idle", "sleep", "7300.75")
    assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
    database = daemon.home / "hub" / "edgehub.db"
    for path in database.parent.glob("edgehub.db*"):
        path.unlink()
    database.write_bytes(b"no database" * 1000)
    daemon.start()
    daemon.wait(lambda: daemon.status("edgeHub") == "failed", "trouble")
    assert daemon.status("idle") == "running"
    daemon.wait(lambda: daemon.status("edgeHub") == "running", "the edge hub")
    assert database.with_name("edgehub.db.bad").read_bytes().startswith(b"no database")
    assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
    # Something that passes by itself: nothing is thrown away for it.
    kept = database.rename(database.with_name("kept"))
    database.mkdir()
    daemon.start()
    daemon.wait(lambda: daemon.status("edgeHub") == "failed", "trouble")
    database.rmdir()
    kept.rename(database)
    daemon.wait(lambda: daemon.status("edgeHub") == "running", "the edge hub")


def test_the_environment_of_the_edge_hub_opens_and_closes_its_heads(
    daemon: EdgeDaemon, shared_instance: Instance
) -> None:
    device_id = _running(daemon, shared_instance, "idle", "sleep", "7300.85")

    def open_ports() -> set[int]:
        found = set()
        for port in (443, 5671, 8443, 8883):
            with contextlib.suppress(OSError):
                socket.create_connection((daemon.address, port), 5).close()
                found.add(port)
        return found

    daemon.wait(lambda: open_ports() == {443, 5671, 8883}, "all heads")
    env = {
        "mqttSettings__enabled": "false",
        "httpSettings__port": "8443",
        "amqpSettings__port": "none",
        "RuntimeLogLevel": "debug",
    }
    modules = {"idle": process("sleep", "7300.85")}
    deploy(shared_instance, device_id, modules, hub_env=env)
    daemon.wait(lambda: open_ports() == {5671, 8443}, "those of the deployment")
    assert "amqpSettings__port must be a whole number" in daemon.log_text()
    assert "RuntimeLogLevel" in daemon.log_text()
    deploy(shared_instance, device_id, modules)
    daemon.wait(lambda: open_ports() == {443, 5671, 8883}, "all heads again")
    assert daemon.status("edgeHub") == "running"
