"""What `iotedge check` sees from inside a container, in a real Docker Engine."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from muster.edge.check import container_checks as checks
from muster.edge.check.outcome import Result
from muster.edge.check.surroundings import Surroundings
from muster.edge.engine.containers import OWNER, OWNER_LABEL
from support.docker import DockerHost, Registry
from unit.edge.check.conftest import Device, fine, problem

pytestmark = pytest.mark.xdist_group("docker")

NETWORK = "checked"


class Place:
    """A device with a Docker Engine and the network of its modules.

    Attributes:
        address: of the device in that network.
    """

    def __init__(self, device: Device, host: DockerHost, image: str) -> None:
        self.device = device
        self.host = host
        self.image = image
        host.must("POST", "/networks/create", {"Name": NETWORK})
        found = host.must("GET", f"/networks/{NETWORK}")
        self.address: str = found["IPAM"]["Config"][0]["Gateway"]

    def around(self, more: str = "", **options: Any) -> Surroundings:
        self.device.write(f'[moby_runtime]\nuri = "{self.host.uri}"\nnetwork = "{NETWORK}"\n{more}')
        self.device.options.update(
            {"hub_host": self.address, "diagnostics_image": self.image, **options}
        )
        return self.device.around()

    @contextlib.contextmanager
    def listening(self, port: int) -> Iterator[None]:
        with socket.create_server((self.address, port)):
            yield


@pytest.fixture
def place(docker_host: DockerHost, registry: Registry, tmp_path: Path) -> Iterator[Place]:
    docker_host.pull(registry.base)
    yield Place(Device(tmp_path), docker_host, registry.base)
    left = docker_host.must("GET", "/containers/json?all=1")
    docker_host.remove_containers()
    docker_host.must("DELETE", f"/networks/{NETWORK}")
    assert [each["Image"] for each in left if "sh" in each["Command"]] == []


@pytest.mark.parametrize(
    ("check", "port"), [(checks.module_upstream_https, 443), (checks.module_upstream_mqtt, 8883)]
)
def test_the_hub_from_the_network_of_modules(place: Place, check: Any, port: int) -> None:
    around = place.around()
    with place.listening(port):
        fine(check, around)
    what, fix = problem(check, around, Result.WARNING)
    assert what.startswith(
        f"from a container on the network {NETWORK}, {place.address}:{port} is not reached: "
        "Connection refused"
    )
    assert "DNS" in fix


def test_a_name_that_containers_do_not_know(place: Place) -> None:
    around = place.around(hub_host="nothing.invalid")
    what, _ = problem(checks.module_upstream_https, around, Result.WARNING)
    assert "nothing.invalid:443 is not reached: " in what
    assert "Connection refused" not in what


def test_the_edge_hub_from_the_network_of_modules(place: Place) -> None:
    more = "[edge_hub]\nmqtt_port = 8883\nhttps_port = 8443\n"
    around = place.around(more)
    name = around.settings.hostname
    with place.listening(8883):
        with place.listening(8443):
            fine(checks.edge_hub, around)
        what, fix = problem(checks.edge_hub, around)
    assert f"the edge hub is not reached at {name}:8443: Connection refused" in what
    assert "firewall" in fix


def test_no_default_network(place: Place) -> None:
    """The engine of the tests has none."""
    for check in (checks.default_upstream_https, checks.default_upstream_mqtt):
        what, _ = problem(check, place.around(), Result.SKIPPED)
        assert what.startswith("the container engine has no network bridge: ")


def test_the_image_of_a_module_will_do(place: Place) -> None:
    around = place.around(diagnostics_image=None)
    what, fix = problem(checks.module_upstream_https, around, Result.SKIPPED)
    assert what == "no module is a container, so there is no image to look out of"
    assert "--diagnostics-image-name" in fix
    place.host.must(
        "POST",
        "/containers/create?name=worker",
        {"Image": place.image, "Cmd": ["true"], "Labels": {OWNER_LABEL: OWNER}},
    )
    with place.listening(443):
        fine(checks.module_upstream_https, around)


def test_images_that_cannot_look_out(place: Place) -> None:
    bare = "muster/bare:1"
    place.host.build(bare, "scratch", ["/program"], {"/program": "nothing"})
    poor = "muster/poor:1"
    script = "#!/usr/bin/python3\nraise SystemExit(97)\n"  # in place of a shell without tools
    place.host.build(poor, place.image, ["true"], {"/usr/local/bin/sh": script})
    try:
        for image, reason in (
            (bare, "sh"),
            (poor, "it has no Python, Bash or nc"),
            ("muster/absent:1", "No such image"),
        ):
            around = place.around(diagnostics_image=image)
            what, fix = problem(checks.module_upstream_https, around, Result.SKIPPED)
            assert what.startswith(f"the image {image} cannot be used to look out of: ")
            assert reason in what
            assert "--diagnostics-image-name" in fix
    finally:
        place.host.forget(bare)
        place.host.forget(poor)


def test_no_engine(place: Place) -> None:
    around = place.around()
    place.device.write('[moby_runtime]\nuri = "unix:///nonexistent/docker.sock"\n')
    for check in (checks.module_upstream_mqtt, checks.edge_hub):
        what, _ = problem(check, place.device.around(), Result.SKIPPED)
        assert what.startswith("no container engine answers: ")
    fine(checks.proxies, place.device.around())
    fine(checks.proxies, around)


def test_the_engine_has_another_proxy(place: Place) -> None:
    place.device.daemon_environment = {"https_proxy": "http://u:secret-of-proxy@proxy.example:8080"}
    what, fix = problem(checks.proxies, place.around(), Result.WARNING)
    assert what == (
        "the container engine pulls images by the proxy none, and the daemon uses "
        "proxy.example:8080"
    )
    assert "systemctl edit docker" in fix
