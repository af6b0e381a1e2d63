"""What `iotedge check` sees of a real daemon's edge hub from inside a container."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from muster.edge.check.causes import Cause
from support.device import unique
from support.docker import DockerHost, Registry
from support.edge_checks import check, reported
from support.edge_daemon import EdgeDaemon
from support.engines import docker_host, docker_session, registry
from support.instance import Instance
from support.run import Run

__all__ = ["docker_host", "docker_session", "registry"]
pytestmark = [pytest.mark.xdist_group("docker"), pytest.mark.timeout(300)]
NAME = "container-connect-edge-hub"


@pytest.fixture
def network() -> str:
    """Return the first three numbers of the network of modules."""
    run = Run.current()
    return f"10.{90 + run.slot % 10}.{run.next_number() % 250}"


@pytest.fixture
def daemon(
    shared_instance: Instance, docker_host: DockerHost, network: str
) -> Iterator[EdgeDaemon]:
    if shared_instance.place.why_not_official is not None:
        pytest.skip(shared_instance.place.why_not_official)
    table = (
        '[moby_runtime.network]\nname = "checked-hub"\n'
        f'ipam = {{ config = [ {{ subnet = "{network}.0/24", gateway = "{network}.1" }} ] }}\n'
    )
    with EdgeDaemon(
        shared_instance,
        docker_host.uri,
        address=f"{network}.1",
        hostname="gateway.muster.test",
        network=table,
    ) as made:
        yield made


def test_the_edge_hub_from_a_container(
    daemon: EdgeDaemon, shared_instance: Instance, docker_host: DockerHost, registry: Registry
) -> None:
    device_id = unique("edge")
    key, _ = shared_instance.dps.enroll(
        device_id,
        capabilities={"iotEdge": True},
        iotHubs=[shared_instance.place.hubs[0]],
        allocationPolicy="hashed",
    )
    docker_host.pull(registry.base)
    looking_out = ("--diagnostics-image-name", registry.base)
    daemon.configure(device_id, key)
    daemon.start()
    daemon.wait(lambda: daemon.status("edgeHub") == "running", "the identity")
    daemon.wait(
        lambda: check(daemon, *looking_out)[NAME]["result"] == "ok", "the way from a container"
    )
    # An edge hub that listens on another of the device's addresses only, as behind a firewall.
    daemon.end()
    elsewhere = f"127.{daemon.address.partition('.')[2]}"
    text = daemon.config.read_text()
    daemon.config.write_text(
        text.replace(f'address = "{daemon.address}"', f'address = "{elsewhere}"')
    )
    daemon.start()
    daemon.wait(
        lambda: check(daemon, *looking_out)["edge-hub"]["result"] == "ok", "the edge hub's ports"
    )
    details = reported(check(daemon, *looking_out), NAME, Cause.EDGE_HUB_BARRED)
    assert (
        "from the network checked-hub, the edge hub is not reached at gateway.muster.test:8883: "
        "Connection refused"
    ) in details
    assert "firewall" in details
