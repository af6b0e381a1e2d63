"""Devices, modules, twins, hubs and policies: what is sent, and what is shown."""

from __future__ import annotations

from typing import Any

from unit.cli.cli_service import KEY, WRONG_KEY, Call, CliService, Reply, refusal
from unit.cli.conftest import Run, parsed

SAS = {"type": "sas", "symmetricKey": {"primaryKey": KEY, "secondaryKey": WRONG_KEY}}
DEVICE: dict[str, Any] = {
    "deviceId": "press-1",
    "status": "enabled",
    "etag": "ZTE=",
    "authentication": SAS,
    "capabilities": {"iotEdge": True},
    "lastActivityTime": "0001-01-01T00:00:00Z",
}
MODULE = {"deviceId": "press-1", "moduleId": "$edgeHub", "etag": "ZTI=", "authentication": SAS}
TWIN = {
    "deviceId": "press-1",
    "etag": "AAAAAAAAAAE=",
    "tags": {"site": "a"},
    "properties": {
        "desired": {"i": 1, "$version": 4, "$metadata": {}},
        "reported": {"r": 2, "$version": 5, "$metadata": {}},
    },
}


def echo(call: Call) -> Any:
    return call.body


def test_a_device(run: Run, service: CliService) -> None:
    service.on("PUT", "/devices/press-1", echo)
    service.on("GET", "/devices/press-1", DEVICE)
    run("device", "create", "press-1", "--edge")
    assert service.calls[-1].query == {"api-version": "2021-04-12"}
    assert "if-match" not in service.calls[-1].headers
    assert service.calls[-1].body == {
        "deviceId": "press-1",
        "status": "enabled",
        "authentication": {"type": "sas", "symmetricKey": {}},
        "capabilities": {"iotEdge": True},
    }
    run("device", "update", "press-1", "--status", "disabled", "--status-reason", "why")
    assert service.calls[-1].headers["if-match"] == '"ZTE="'
    assert service.calls[-1].body == {**DEVICE, "status": "disabled", "statusReason": "why"}


def test_device_keys_only_when_asked(run: Run, service: CliService) -> None:
    service.on("GET", "/devices/press-1", DEVICE)
    assert KEY not in run("device", "show", "press-1").output
    assert KEY not in run("device", "show", "press-1", "--json").output
    assert KEY in run("device", "show", "press-1", "--show-keys").stdout
    text = run("device", "connection-string", "press-1").stdout
    assert text == f"HostName=localhost;DeviceId=press-1;SharedAccessKey={KEY}\n"
    found = parsed(run("device", "connection-string", "press-1", "--secondary", "--json"))
    assert found["connectionString"].endswith(f"SharedAccessKey={WRONG_KEY}")


def test_a_device_without_a_key(run: Run, service: CliService) -> None:
    service.on("GET", "/devices/press-1", {**DEVICE, "authentication": {"type": "none"}})
    assert "no symmetric key" in run("device", "connection-string", "press-1", code=1).stderr


def test_device_list(run: Run, service: CliService) -> None:
    service.on("GET", "/devices", [DEVICE])
    service.on("GET", "/statistics/devices", {"totalDeviceCount": 7})
    result = run("device", "list", "--top", "1")
    assert result.stdout.splitlines()[1].split() == ["press-1", "enabled", "-", "yes", "-"]
    assert "of 7 devices" in result.stderr
    assert KEY not in run("device", "list", "--json").output


def test_revoke_and_restore(run: Run, service: CliService) -> None:
    done = {"registrationId": "s-1", "entry": "group", "sessionsDropped": 1, "deviceDisabled": True}
    service.on("POST", "/admin/v1/registrations/s-1/revoke", done)
    service.on("POST", "/admin/v1/registrations/s-1/restore", done)
    assert "Say --yes" in run("device", "revoke", "s-1", code=2).stderr
    assert service.calls == []
    assert parsed(run("device", "revoke", "s-1", "--reason", "stolen", "--yes", "--json")) == done
    assert service.calls[-1].body == {"reason": "stolen"}
    assert "may register" in run("device", "restore", "s-1").stderr


def test_a_module(run: Run, service: CliService) -> None:
    path = "/devices/press-1/modules/$edgeHub"
    service.on("PUT", path, echo)
    service.on("GET", path, MODULE)
    service.on("DELETE", path, Reply(status=204))
    service.on("GET", "/devices/press-1/modules", [MODULE])
    place = ("press-1", "$edgeHub")
    run("module", "create", *place, "--managed-by", "iotEdge")
    assert service.calls[-1].body["managedBy"] == "iotEdge"
    run("module", "update", *place, "--managed-by", "me")
    assert service.calls[-1].headers["if-match"] == '"ZTI="'
    assert KEY not in run("module", "show", *place).output
    assert "$edgeHub" in run("module", "list", "press-1").stdout
    assert ";ModuleId=$edgeHub;" in run("module", "connection-string", *place).stdout
    run("module", "delete", *place)
    assert service.calls[-1].headers["if-match"] == '"*"'


def test_twins(run: Run, service: CliService) -> None:
    for path in ("/twins/press-1", "/twins/press-1/modules/$edgeHub"):
        for method in ("GET", "PATCH", "PUT"):
            service.on(method, path, TWIN)
    shown = run("twin", "show", "press-1", "--module", "$edgeHub").stdout
    assert "Desired properties (version 4)" in shown
    assert "$metadata" not in shown
    assert parsed(run("twin", "show", "press-1", "--json")) == TWIN
    run("twin", "update", "press-1", "--tags", '{"old": null}', "--desired", '{"i": 2}')
    assert service.calls[-1].method == "PATCH"
    assert service.calls[-1].headers["if-match"] == '"*"'
    assert service.calls[-1].body == {"tags": {"old": None}, "properties": {"desired": {"i": 2}}}


def test_what_a_replacement_leaves_alone_is_not_written(run: Run, service: CliService) -> None:
    for method in ("GET", "PATCH", "PUT"):
        service.on(method, "/twins/press-1", TWIN)
    run("twin", "replace", "press-1", "--tags", '{"line": {"a": 1}}')
    assert service.calls[-1].method == "PATCH"
    assert service.calls[-1].headers["if-match"] == '"AAAAAAAAAAE="'
    assert service.calls[-1].body == {"tags": {"site": None, "line": {"a": 1}}}
    run("twin", "replace", "press-1", "--desired", '{"j": 1}', "--etag", "AAAAAAAAAAI=")
    assert service.calls[-1].headers["if-match"] == '"AAAAAAAAAAI="'
    assert service.calls[-1].body == {"properties": {"desired": {"i": None, "j": 1}}}
    run("twin", "replace", "press-1", "--tags", "{}", "--desired", "{}")
    assert service.calls[-1].method == "PUT"
    assert service.calls[-1].body == {"tags": {}, "properties": {"desired": {}}}


def test_hubs(run: Run, service: CliService) -> None:
    host = service.host
    hubs = "/admin/v1/hubs"
    found = {"host": host, "local": True, "allocationWeight": 2, "applyAllocationPolicy": True}
    service.on("GET", hubs, [found])
    service.on("GET", f"{hubs}/{host}", lambda _: dict(found))
    service.on("GET", "/statistics/devices", {"totalDeviceCount": 3})
    service.on("GET", "/statistics/service", {"connectedDeviceCount": 1})
    service.on("PUT", f"{hubs}/{host}", echo)
    service.on("PUT", f"{hubs}/new", echo)
    service.on("DELETE", f"{hubs}/{host}", Reply(status=204))
    assert host in run("hub", "list").stdout
    shown = parsed(run("hub", "show", host, "--json"))
    assert shown["statistics"] == {"totalDeviceCount": 3, "connectedDeviceCount": 1}
    assert "exists already" in run("hub", "create", host, code=1).stderr
    run("hub", "create", "new", "--allocation-weight", "5")
    assert service.calls[-1].body == {"host": "new", "local": True, "allocationWeight": 5}
    run("hub", "update", host, "--no-apply-allocation")
    assert service.calls[-1].body == {**found, "applyAllocationPolicy": False}
    run("hub", "unlink", host, code=2)
    run("hub", "unlink", host, "--yes")


def test_link_takes_the_host_from_the_connection_string(run: Run, service: CliService) -> None:
    text = f"HostName=far.example;SharedAccessKeyName=iothubowner;SharedAccessKey={KEY}"
    service.on("PUT", "/admin/v1/hubs/far.example", echo)
    result = run("hub", "link", "--connection-string-file", "-", text=text + "\n")
    assert service.calls[-1].body == {
        "host": "far.example",
        "local": False,
        "connectionString": text,
    }
    assert KEY not in result.output
    device = f"HostName=far.example;DeviceId=d;SharedAccessKey={KEY}"
    stderr = run("hub", "link", "--connection-string-file", "-", text=device, code=2).stderr
    assert "access policy's" in stderr
    assert "cannot be read" in run("hub", "link", "--connection-string", "x", code=2).stderr


def test_policies(run: Run, service: CliService) -> None:
    found = {
        "name": "enroller",
        "rights": ["EnrollmentRead"],
        "primaryKey": KEY,
        "secondaryKey": WRONG_KEY,
        "connectionString": service.login(name="enroller"),
    }
    place = "/admin/v1/policies/dps"
    service.on("GET", place, [found])
    service.on("GET", f"{place}/enroller", found)
    service.on("PUT", f"{place}/enroller", echo)
    service.on("PUT", f"{place}/new", echo)
    service.on("DELETE", f"{place}/enroller", Reply(status=204))
    service.on("GET", "/admin/v1/policies/hubs/plant-a", [])
    for command in (("list",), ("show", "enroller")):
        assert KEY not in run("policy", *command).output
        assert KEY not in run("policy", *command, "--json").output
        assert KEY in run("policy", *command, "--show-keys").stdout
    run("policy", "create", "new", "--rights", "enrollmentread,EnrollmentWrite")
    assert service.calls[-1].body == {
        "name": "new",
        "rights": ["EnrollmentRead", "EnrollmentWrite"],
    }
    run("policy", "update", "enroller", "--rights", "EnrollmentWrite")
    assert service.calls[-1].body["primaryKey"] == KEY
    run("policy", "list", "--hub", "plant-a")
    run("policy", "delete", "enroller")


def test_a_policy_that_is_there_is_not_created_again(run: Run, service: CliService) -> None:
    service.on("GET", "/admin/v1/policies/dps/p", {"name": "p"})
    stderr = run("policy", "create", "p", "--rights", "EnrollmentRead", code=1).stderr
    assert "exists already" in stderr
    service.on("GET", "/admin/v1/policies/dps/p", refusal(403, 403000, "Forbidden"))
    assert "Forbidden" in run("policy", "create", "p", "--rights", "EnrollmentRead", code=1).stderr
