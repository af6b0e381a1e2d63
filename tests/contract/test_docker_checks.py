"""What `iotedge check` sees from inside a container, in a real Docker Engine."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from muster.edge.check import container_checks as checks
from muster.edge.check import engine_checks
from muster.edge.check.causes import Cause
from muster.edge.check.outcome import IGNORED, Result
from muster.edge.check.surroundings import Surroundings
from muster.edge.engine.containers import OWNER, OWNER_LABEL
from support.docker import DockerHost, Registry
from support.run import Run
from unit.edge.check.conftest import Device, device, fine, problem

__all__ = ["device"]
pytestmark = pytest.mark.xdist_group("docker")

NETWORK = "checked"


class Place:
    """A device with a Docker Engine and the network of its modules.

    Attributes:
        address: of the device in the network that is looked out of.
    """

    def __init__(self, device: Device, host: DockerHost, image: str, address: str = "") -> None:
        self.device = device
        self.host = host
        self.image = image
        host.must("POST", "/networks/create", {"Name": NETWORK})
        found = host.must("GET", f"/networks/{NETWORK}")
        self.address = address or str(found["IPAM"]["Config"][0]["Gateway"])

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
def place(docker_host: DockerHost, registry: Registry, device: Device) -> Iterator[Place]:
    docker_host.pull(registry.base)
    yield Place(device, docker_host, registry.base)
    docker_host.start_again()
    left = docker_host.must("GET", "/containers/json?all=1")
    docker_host.remove_containers()
    docker_host.must("DELETE", f"/networks/{NETWORK}")
    assert [each["Image"] for each in left if "sh" in each["Command"]] == []


@contextlib.contextmanager
def _bridge(name: str, address: str) -> Iterator[str]:
    """Make the network device of an engine's default network."""
    for command in (
        f"ip link add {name} type bridge",
        f"ip address add {address}/26 dev {name}",
        f"ip link set {name} up",
    ):
        subprocess.run(command.split(), check=True, capture_output=True)
    try:
        yield name
    finally:
        subprocess.run(["ip", "link", "delete", name], check=True)


@pytest.fixture(scope="module")
def bridged(registry: Registry) -> Iterator[tuple[DockerHost, str]]:
    """Return an engine that has a default network, and the address of this device in it."""
    run = Run.current()
    number = run.next_number()
    address = f"10.{30 + run.slot % 20}.{number % 250}.1"
    with _bridge(f"mb{run.slot}n{number}", address) as name, DockerHost(name) as host:
        host.pull(registry.base)
        yield host, address


UPSTREAM = [
    (checks.module_upstream_https, 443),
    (checks.module_upstream_mqtt, 8883),
    (checks.module_upstream_amqp, 5671),
]
DEFAULT = [
    (checks.default_upstream_https, 443),
    (checks.default_upstream_mqtt, 8883),
    (checks.default_upstream_amqp, 5671),
]


@pytest.mark.parametrize(("check", "port"), UPSTREAM)
def test_the_hub_from_the_network_of_modules(place: Place, check: Any, port: int) -> None:
    around = place.around()
    with place.listening(port):
        fine(check, around)
    what, fix = problem(check, around, Cause.UPSTREAM_BARRED, Result.WARNING)
    assert what.startswith(
        f"from a container on the network {NETWORK}, {place.address}:{port} is not reached: "
        "Connection refused"
    )
    assert "DNS" in fix


@pytest.mark.parametrize(("check", "port"), DEFAULT)
def test_the_hub_from_the_default_network(
    bridged: tuple[DockerHost, str], registry: Registry, device: Device, check: Any, port: int
) -> None:
    host, address = bridged
    place = Place(device, host, registry.base, address)
    try:
        around = place.around()
        with place.listening(port):
            fine(check, around)
        what, _ = problem(check, around, Cause.UPSTREAM_BARRED, Result.WARNING)
        assert what.startswith(
            f"from a container on the network bridge, {address}:{port} is not reached: "
            "Connection refused"
        )
        assert host.must("GET", "/containers/json?all=1") == []
    finally:
        host.must("DELETE", f"/networks/{NETWORK}")


def test_amqp_that_nobody_wants(place: Place) -> None:
    around = place.around('[agent.env]\nUpstreamProtocol = "Mqtt"\n')
    for check in (checks.module_upstream_amqp, checks.default_upstream_amqp):
        assert check(around) == IGNORED


def test_a_name_that_containers_do_not_know(place: Place) -> None:
    around = place.around(hub_host="nothing.invalid")
    what, _ = problem(checks.module_upstream_https, around, Cause.UPSTREAM_BARRED, Result.WARNING)
    assert "nothing.invalid:443 is not reached: " in what
    assert "Connection refused" not in what


def test_a_container_that_does_not_find_out_in_time(place: Place) -> None:
    slow = "muster/slow:1"
    script = "#!/usr/bin/python3\nimport time\ntime.sleep(600)\n"  # as a name server that is silent
    place.host.build(slow, place.image, ["true"], {"/usr/local/bin/sh": script})
    try:
        around = place.around(diagnostics_image=slow, patience_s=1.0)
        what, _ = problem(
            checks.module_upstream_https, around, Cause.UPSTREAM_BARRED, Result.WARNING
        )
        assert ":443 is not reached: nothing was heard" in what
        assert place.host.must("GET", "/containers/json?all=1") == []
    finally:
        place.host.forget(slow)


def test_no_default_network(place: Place) -> None:
    """The engine of most tests has none."""
    for check, _ in DEFAULT:
        what, _ = problem(check, place.around(), Cause.NETWORK_MISSING, Result.SKIPPED)
        assert what.startswith("the container engine has no network bridge: ")


def test_the_image_of_a_module_will_do(place: Place) -> None:
    around = place.around(diagnostics_image=None)
    what, fix = problem(checks.module_upstream_https, around, Cause.IMAGE_MISSING, Result.SKIPPED)
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
            what, fix = problem(
                checks.module_upstream_https, around, Cause.IMAGE_UNUSABLE, Result.SKIPPED
            )
            assert what.startswith(f"the image {image} cannot be used to look out of: ")
            assert reason in what
            assert "--diagnostics-image-name" in fix
    finally:
        place.host.forget(bare)
        place.host.forget(poor)


def test_an_engine_that_was_killed(place: Place) -> None:
    around = place.around()
    facts = fine(engine_checks.container_engine, around).facts
    assert facts["engine_version"] == place.host.must("GET", "/version")["Version"]
    place.host.kill9()
    what, fix = problem(engine_checks.container_engine, around, Cause.ENGINE_SILENT)
    assert what.endswith("does not answer: [Errno 111] Connection refused")
    assert fix == "sudo systemctl start docker"
    what, _ = problem(checks.module_upstream_mqtt, around, Cause.ENGINE_SILENT, Result.SKIPPED)
    assert what.startswith("no container engine answers: ")


def test_proxies_where_no_engine_answers(place: Place) -> None:
    around = place.around()
    with place.device.listener():
        fine(checks.proxies, around)
        place.device.write('[moby_runtime]\nuri = "unix:///nonexistent/docker.sock"\n')
        fine(checks.proxies, place.device.around())


def test_the_engine_has_another_proxy(place: Place) -> None:
    around = place.around()
    with place.device.listener(https_proxy="http://u:secret-of-proxy@proxy.example:8080"):
        what, fix = problem(checks.proxies, around, Cause.PROXY_OF_ENGINE_DIFFERS, Result.WARNING)
    assert what == (
        "the container engine pulls images by the proxy none, and the daemon uses "
        "proxy.example:8080"
    )
    assert "systemctl edit docker" in fix
