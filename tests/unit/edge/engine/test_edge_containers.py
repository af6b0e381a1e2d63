"""Container modules in the Docker Engine's words."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.edge.engine.base import (
    EngineError,
    LogChunk,
    LogRange,
    ModuleSpec,
    RegistryLogin,
    Status,
)
from muster.edge.engine.containers import (
    Demultiplexer,
    container_body,
    fingerprint,
    gateways,
    image_of,
    log_query,
    module_of,
    network_body,
    read_time,
)
from muster.edge.settings import Network

GATEWAYS = ["172.18.0.1"]


def spec(**fields: Any) -> ModuleSpec:
    return ModuleSpec(
        **{"name": "m", "module_id": "m", "settings": {"image": "registry/m:1"}, **fields}
    )


def body(*, elevated: bool = True, **fields: Any) -> dict[str, Any]:
    return container_body(spec(**fields), "azure-iot-edge", GATEWAYS, elevated=elevated)


def test_a_plain_module() -> None:
    assert body(env={"A": "1"}) == {
        "Image": "registry/m:1",
        "Env": ["A=1"],
        "Labels": {
            "net.azure-devices.edge.owner": "Microsoft.Azure.Devices.Edge.Agent",
            "net.azure-devices.edge.original-image": "registry/m:1",
            "muster.fingerprint": fingerprint(spec(env={"A": "1"}), elevated=True),
        },
        "HostConfig": {"NetworkMode": "azure-iot-edge"},
        "NetworkingConfig": {"EndpointsConfig": {"azure-iot-edge": {}}},
    }


def test_options_are_not_changed() -> None:
    options = {"HostConfig": {"Binds": ["/a:/b"]}, "Env": ["X=1"], "Labels": {"a": "b"}}
    before = repr(options)
    body(create_options=options, workload_socket=Path("/s/w.sock"), device_names=("edge",))
    assert repr(options) == before


def test_options_have_the_last_word_on_the_environment() -> None:
    made = body(
        env={"A": "injected", "B": "injected", "IOTEDGE_WORKLOADURI": "unix:///other.sock"},
        create_options={"Env": ["A=options", "C", "A=again"]},
        workload_socket=Path("/s/w.sock"),
    )
    assert made["Env"] == [
        "B=injected",
        "IOTEDGE_WORKLOADURI=unix:///other.sock",
        "A=options",
        "C",
        "A=again",
    ]


@pytest.mark.parametrize(
    ("options", "mode", "networks"),
    [
        ({}, "azure-iot-edge", ["azure-iot-edge"]),
        ({"HostConfig": {"NetworkMode": ""}}, "azure-iot-edge", ["azure-iot-edge"]),
        ({"HostConfig": {"NetworkMode": "host"}}, "host", []),
        ({"NetworkingConfig": {"EndpointsConfig": {"other": {}}}}, None, ["other"]),
    ],
)
def test_the_network_of_modules_is_for_those_that_choose_none(
    options: dict[str, Any], mode: str | None, networks: list[str]
) -> None:
    made = body(create_options=options)
    assert made["HostConfig"].get("NetworkMode") == mode
    assert list(made.get("NetworkingConfig", {}).get("EndpointsConfig", {})) == networks


@pytest.mark.parametrize(
    ("mode", "said", "expected"),
    [
        ("", None, ["edge:172.18.0.1", "edge.plant:172.18.0.1"]),
        ("host", None, ["edge:127.0.0.1", "edge.plant:127.0.0.1"]),
        ("none", None, None),
        ("container:db", None, None),
        ("", ["edge:10.0.0.9"], ["edge:10.0.0.9", "edge.plant:172.18.0.1"]),
        ("container:db", ["edge:10.0.0.9"], ["edge:10.0.0.9"]),
    ],
)
def test_names_that_lead_to_the_device(
    mode: str, said: list[str] | None, expected: list[str] | None
) -> None:
    made = body(
        create_options={"HostConfig": {"NetworkMode": mode, "ExtraHosts": said}},
        device_names=("edge", "edge.plant"),
    )
    assert made["HostConfig"]["ExtraHosts"] == expected


def test_no_privileges() -> None:
    host = {"Privileged": True, "CapAdd": ["ALL"], "CapDrop": ["KILL"], "Memory": 1}
    assert body(elevated=False, create_options={"HostConfig": host})["HostConfig"] == {
        "Privileged": False,
        "CapAdd": [],
        "CapDrop": ["CHOWN", "SETUID", "KILL"],
        "Memory": 1,
        "NetworkMode": "azure-iot-edge",
    }
    assert body(create_options={"HostConfig": host})["HostConfig"]["Privileged"] is True
    assert fingerprint(spec(), elevated=True) != fingerprint(spec(), elevated=False)


@pytest.mark.parametrize(
    ("image", "digest", "expected"),
    [
        ("m", None, "m"),
        ("registry:5000/m", "", "registry:5000/m"),
        ("registry:5000/m", "sha256:1", "registry:5000/m@sha256:1"),
        ("registry:5000/m:2", "sha256:1", "registry:5000/m@sha256:1"),
        ("m:2", "sha256:1", "m@sha256:1"),
    ],
)
def test_images(image: str, digest: str | None, expected: str) -> None:
    assert image_of(spec(settings={"image": image, "digest": digest})) == expected


@pytest.mark.parametrize("settings", [{}, {"image": ""}, {"image": 7}])
def test_no_image(settings: dict[str, Any]) -> None:
    with pytest.raises(EngineError, match=r"^settings\.image") as caught:
        image_of(spec(settings=settings))
    assert caught.value.status == 400


def inspected(status: str, code: int = 0, **state: Any) -> dict[str, Any]:
    return {
        "Name": "/m",
        "Image": "sha256:1",
        "Config": {"Image": "registry/m:1", "Labels": None},
        "State": {"Status": status, "ExitCode": code, "Error": "", **state},
    }


@pytest.mark.parametrize(
    ("state", "code", "status"),
    [
        ("created", 0, Status.STOPPED),
        ("paused", 0, Status.STOPPED),
        ("restarting", 1, Status.STOPPED),
        ("running", 0, Status.RUNNING),
        ("removing", 0, Status.STOPPED),
        ("removing", 1, Status.FAILED),
        ("exited", 0, Status.STOPPED),
        ("exited", 143, Status.FAILED),
        ("dead", 137, Status.DEAD),
        ("dreaming", 0, Status.UNKNOWN),
    ],
)
def test_every_state_has_its_status(state: str, code: int, status: Status) -> None:
    """The table of edge.md 3.2."""
    module = module_of(inspected(state, code))
    assert (module.name, module.status, module.exit_code) == ("m", status, code)
    assert module.description == state
    assert module.settings == {"image": "registry/m:1", "imageHash": "sha256:1"}


def test_descriptions() -> None:
    assert module_of(inspected("exited", 137, OOMKilled=True)).description == (
        "exited, out of memory"
    )
    assert module_of(inspected("created", 127, Error="no such file")).description == "no such file"


def test_times() -> None:
    assert read_time("0001-01-01T00:00:00Z") is None
    assert read_time("") is None
    assert read_time(None) is None
    moment = datetime(2026, 11, 26, 0, 7, 45, 702269, UTC)
    assert read_time("2026-11-26T00:07:45.702269123Z") == moment
    assert read_time("2026-11-26T02:07:45.702269123+02:00") == moment
    assert read_time("2026-11-26T00:07:45Z") == moment.replace(microsecond=0)


def test_log_queries() -> None:
    assert log_query(LogRange()) == {
        "stdout": "1",
        "stderr": "1",
        "follow": "0",
        "timestamps": "0",
        "tail": "all",
    }
    asked = LogRange(follow=True, tail=0, since=datetime(2026, 1, 1, tzinfo=UTC), timestamps=True)
    assert log_query(asked) == {
        "stdout": "1",
        "stderr": "1",
        "follow": "1",
        "timestamps": "1",
        "tail": "0",
        "since": "1767225600.000000",
    }


def test_networks() -> None:
    assert network_body(Network()) == {
        "Name": "azure-iot-edge",
        "CheckDuplicate": True,
        "EnableIPv6": False,
    }
    subnet = {"Subnet": "10.1.0.0/24", "Gateway": "10.1.0.1", "IPRange": "10.1.0.128/25"}
    made = network_body(Network(name="n", ipv6=True, ipam=(subnet,)))
    assert made["IPAM"] == {"Driver": "default", "Config": [subnet]}
    assert made["EnableIPv6"] is True
    assert gateways(made) == ["10.1.0.1"]
    assert gateways({"IPAM": {"Config": None}}) == []
    assert gateways({"IPAM": {"Config": [{"Gateway": "fd00::1/64"}, {"Subnet": "x"}]}}) == [
        "fd00::1"
    ]


chunks = st.lists(st.builds(LogChunk, st.sampled_from([1, 2]), st.binary(max_size=30)), max_size=10)


@given(chunks, st.lists(st.integers(0, 200), max_size=10))
def test_logs_come_in_any_pieces(wanted: list[LogChunk], cuts: list[int]) -> None:
    data = b"".join(
        bytes([chunk.stream, 0, 0, 0]) + len(chunk.data).to_bytes(4) + chunk.data
        for chunk in wanted
    )
    demultiplexer, found = Demultiplexer(terminal=False), []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), None], strict=True):
        found += demultiplexer.feed(data[start:end])
    assert found == wanted


def test_a_terminal_has_no_frames() -> None:
    assert list(Demultiplexer(terminal=True).feed(b"\x01\0\0")) == [LogChunk(1, b"\x01\0\0")]


def test_passwords_are_not_shown() -> None:
    login = RegistryLogin(address="registry.local", username="plant", password="hunter2")
    assert "hunter2" not in repr(login) + repr(spec(login=login))
