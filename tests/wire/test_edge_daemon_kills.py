"""A daemon that is killed in the middle of a deployment finishes it, and runs nothing twice."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.device import unique
from support.edge_daemon import EdgeDaemon, deploy, process

if TYPE_CHECKING:
    from support.instance import Instance

pytestmark = pytest.mark.timeout(300)

MODULES = [f"m{number}" for number in range(8)]


def of_modules(mark: str, wanted: str = "") -> list[str]:
    """Return the modules that run, one name for each process, from the system's own list."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes().split(b"\0")
            env = (path / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if command[0] != b"sleep" or f"MARK={mark}".encode() not in env:
            continue
        if wanted and f"GENERATION={wanted}".encode() not in env:
            continue
        name = next(each for each in env if each.startswith(b"IOTEDGE_MODULEID="))
        found.append(name.partition(b"=")[2].decode())
    return sorted(found)


def test_a_deployment_survives_kills_of_the_daemon(shared_instance: Instance) -> None:
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

    def modules(generation: str) -> dict[str, object]:
        env = {"MARK": {"value": device_id}, "GENERATION": {"value": generation}}
        # Startup orders, so that there is a middle.
        return {
            name: process("sleep", "3600", env=env, startupOrder=order)
            for order, name in enumerate(MODULES)
        }

    with EdgeDaemon(instance) as daemon:
        daemon.configure(device_id, key)
        daemon.start()
        daemon.wait(lambda: daemon.status("edgeAgent") == "running", "an identity")
        for generation in ("first", "second"):
            deploy(instance, device_id, modules(generation))
            for count in (1, 4):
                daemon.wait(
                    lambda count=count, generation=generation: (
                        len(of_modules(device_id, generation)) >= count
                    ),
                    f"{count} modules",
                )
                assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
                daemon.start()
            daemon.wait(
                lambda generation=generation: of_modules(device_id, generation) == MODULES,
                "all modules",
            )
            assert of_modules(device_id) == MODULES
        assert "Traceback" not in daemon.log_text()
        assert daemon.iotedge("list").returncode == 0
