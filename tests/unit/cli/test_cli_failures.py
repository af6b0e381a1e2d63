"""Failures that are to be expected: a clear line, the next step, the right exit code."""

from __future__ import annotations

import socket
from pathlib import Path

import msgspec
import pytest

from muster.auth import sas_token
from muster.config import HubInfo, InstanceInfo
from unit.cli.cli_service import KEY, TRACKING_ID, WRONG_KEY, CliService, hub_refusal, refusal
from unit.cli.conftest import Run, parsed, write_info

SHOW = ("enrollment", "show", "gateway-01")


def test_no_service_on_the_data_directory(run: Run, tmp_path: Path) -> None:
    stderr = run(*SHOW, "--data-dir", str(tmp_path / "nothing"), code=3).stderr
    assert "No service runs on" in stderr
    assert "muster up" in stderr


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[1"])
def test_a_damaged_instance_file(run: Run, data_dir: Path, content: bytes) -> None:
    (data_dir / "instance.json").write_bytes(content)
    assert "cannot be read" in run(*SHOW, code=3).stderr


def test_nothing_listens(run: Run) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        login = f"HostName=localhost:{port};SharedAccessKeyName=a;SharedAccessKey={KEY}"
        stderr = run(*SHOW, "--login", login, code=3).stderr
    assert "connection refused" in stderr
    assert "Next:" in stderr
    assert KEY not in stderr


def test_a_name_that_does_not_resolve(run: Run) -> None:
    login = f"HostName=no-such-host.invalid;SharedAccessKeyName=a;SharedAccessKey={KEY}"
    assert "cannot be resolved" in run(*SHOW, "--login", login, code=3).stderr


def test_the_certificate_is_not_trusted(
    run: Run, service: CliService, tmp_path: Path, data_dir: Path
) -> None:
    (data_dir / "instance.json").unlink()
    stderr = run(*SHOW, "--login", service.login(), code=3).stderr
    assert "not trusted by the system's certificates" in stderr
    assert "--ca-file" in stderr
    no_certificate = tmp_path / "no-certificate.pem"
    no_certificate.write_text("hello")
    stderr = run(*SHOW, "--login", service.login(), "--ca-file", str(no_certificate), code=3).stderr
    assert "holds no certificate" in stderr


def test_trust_by_option_and_by_environment(
    run: Run, service: CliService, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.on("GET", "/enrollments/gateway-01", {"registrationId": "gateway-01"})
    (data_dir / "instance.json").unlink()
    run(*SHOW, "--login", service.login(), "--ca-file", str(service.ca_file))
    monkeypatch.setenv("MUSTER_CONNECTION_STRING", service.login())
    monkeypatch.setenv("MUSTER_CA_FILE", str(service.ca_file))
    run(*SHOW)
    monkeypatch.setenv("MUSTER_CA_FILE", "/no/such/file.pem")
    assert "MUSTER_CA_FILE" in run(*SHOW, code=2).stderr


def test_the_instance_is_trusted_when_a_login_names_it(run: Run, service: CliService) -> None:
    service.on("GET", "/enrollments/gateway-01", {"registrationId": "gateway-01"})
    run(*SHOW, "--login", service.login())


def test_another_name_than_the_certificate_has(run: Run, service: CliService) -> None:
    login = f"HostName=127.0.0.1:{service.port};SharedAccessKeyName=a;SharedAccessKey={KEY}"
    stderr = run(*SHOW, "--login", login, "--ca-file", str(service.ca_file), code=3).stderr
    assert "certificate is for another name" in stderr


def test_a_wrong_key(run: Run, service: CliService) -> None:
    stderr = run(*SHOW, "--login", service.login(key=WRONG_KEY), code=1).stderr
    assert "HTTP 401, error 401002" in stderr
    assert f"muster registration explain {TRACKING_ID}" in stderr
    assert WRONG_KEY not in stderr


@pytest.mark.parametrize(
    ("login", "reason"),
    [
        ("nonsense", "cannot be read"),
        (f"HostName=localhost;DeviceId=d;SharedAccessKey={KEY}", "Those of devices"),
        ("HostName=localhost;SharedAccessKeyName=a;SharedAccessKey=!", "SharedAccessKey"),
    ],
)
def test_a_bad_connection_string(run: Run, login: str, reason: str) -> None:
    stderr = run(*SHOW, "--login", login, code=2).stderr
    assert reason in stderr
    assert KEY not in stderr


def test_errors_of_the_service(run: Run, service: CliService) -> None:
    assert "muster enrollment list" in run(*SHOW, code=1).stderr
    service.on("GET", "/enrollments/gateway-01", refusal(500, 500000, "Something broke"))
    stderr = run(*SHOW, code=1).stderr
    assert "Something broke" in stderr
    assert f"tracking ID {TRACKING_ID}" in stderr
    service.on("GET", "/enrollments/gateway-01", b"<html>")
    assert "not JSON" in run(*SHOW, code=1).stderr


def test_errors_of_a_hub(run: Run, service: CliService) -> None:
    service.on("GET", "/devices/Press-1", hub_refusal(404, "DeviceNotFound", "Device not found"))
    stderr = run("device", "show", "Press-1", code=1).stderr
    assert "Device not found" in stderr
    assert "error DeviceNotFound" in stderr
    assert TRACKING_ID in stderr
    assert "case-sensitive" in stderr


def test_text_of_the_service_cannot_steer_the_terminal(run: Run, service: CliService) -> None:
    service.on("GET", "/enrollments/gateway-01", refusal(400, 400000, "a\x1b[2Jb"))
    stderr = run(*SHOW, code=1).stderr
    assert "\x1b" not in stderr
    assert "a\\x1b[2Jb" in stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("enrollment", "create", "d1", "--tags", "{"), "not JSON"),
        (("enrollment", "create", "d1", "--tags", '{"a.b": 1}'), "--tags: tags has the key 'a.b'"),
        (("enrollment-group", "create", "g", "--desired", '{"$a": 1}'), "--desired: desired has"),
        (("enrollment", "create", "d1", "--tags", "[]"), "a JSON object is needed"),
        (("enrollment", "create", "d1", "--tags", '{"a": NaN}'), "not a JSON number"),
        (("enrollment", "create", "d1", "--desired", "@/no/such.json"), "cannot read"),
        (("enrollment", "create", "bad id"), "'bad id' is not 1 to 128 of"),
        (("enrollment", "create", "d1", "--primary-key", "x"), "primaryKey"),
        (("enrollment", "create", "d1", "--key-file", "/no/such"), "cannot read"),
        (("enrollment", "create", "d1", "--reprovision-policy", "no"), "is not one of"),
        (("enrollment", "import", "/no/such.csv"), "Cannot read"),
        (("enrollment", "import", "/etc/hosts"), "neither .csv nor .jsonl"),
        (("enrollment-group", "derive-key", "d1"), "exactly one of"),
        (("enrollment-group", "derive-key", "--key", "x", "d1"), "--key"),
        (("twin", "update", "d1", "--tags", "{"), "not JSON"),
        (("events", "tail", "--from", "yesterday"), "neither earliest"),
        (("policy", "create", "p", "--rights", "Everything"), "no right 'Everything'"),
        (("device", "show", ".."), "is not an ID"),
        (("enrollment", "show"), "Missing argument"),
    ],
)
def test_wrong_usage(
    run: Run, service: CliService, arguments: tuple[str, ...], reason: str
) -> None:
    assert reason in " ".join(run(*arguments, code=2).stderr.split())
    assert service.calls == []


def test_several_hubs_need_a_choice(
    run: Run, service: CliService, data_dir: Path, info: InstanceInfo
) -> None:
    login = service.login(name="iothubowner")
    hubs = [HubInfo(f"plant-{each}.muster.localhost", login, "Endpoint=sb://…") for each in "ab"]
    write_info(data_dir, msgspec.structs.replace(info, hubs=hubs))
    stderr = run("device", "list", code=2).stderr
    assert "plant-a.muster.localhost, plant-b.muster.localhost" in stderr
    service.on("GET", "/devices", [])
    run("device", "list", "--hub", "Plant-B.muster.localhost")


def test_a_hub_that_came_later_is_asked_for(run: Run, service: CliService) -> None:
    later = "plant-c.muster.localhost"
    login = service.login(name="iothubowner")
    service.on(
        "GET",
        f"/admin/v1/policies/hubs/{later}",
        [{"name": "iothubowner", "connectionString": login}],
    )
    service.on("GET", "/devices", [])
    assert parsed(run("device", "list", "--hub", later, "--json")) == []


def test_a_hub_is_reached_where_the_service_is_by_its_own_name(
    run: Run, service: CliService
) -> None:
    later = "plant-c.muster.localhost"  # this machine need not know the name
    login = f"HostName={later};SharedAccessKeyName=iothubowner;SharedAccessKey={KEY}"
    service.on(
        "GET",
        f"/admin/v1/policies/hubs/{later}",
        [{"name": "iothubowner", "connectionString": login}],
    )
    service.on("GET", "/devices", [])
    run("device", "list", "--hub", later)
    call = service.calls[-1]
    assert call.headers["host"] == later
    assert sas_token.parse(call.headers["authorization"]).resource == later


def test_a_netrc_file_does_not_replace_the_token(
    run: Run, service: CliService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    service.on("GET", "/enrollments/gateway-01", {"registrationId": "gateway-01"})
    run(*SHOW)


def test_a_hub_nobody_knows(run: Run, service: CliService) -> None:
    service.on("GET", "/admin/v1/hubs", [{"host": "plant-a", "local": True}])
    stderr = run("device", "list", "--hub", "plant-x", code=1).stderr
    assert "It knows: plant-a." in stderr
