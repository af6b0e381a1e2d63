"""Enrollments, groups, registrations, derived keys: what is sent, and what is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from muster.auth import symmetric_keys
from unit.cli.cli_service import KEY, TRACKING_ID, WRONG_KEY, Call, CliService, Reply
from unit.cli.conftest import Run, parsed

ENTRY: dict[str, Any] = {
    "registrationId": "gateway-01",
    "attestation": {"type": "symmetricKey", "symmetricKey": {}},
    "capabilities": {"iotEdge": True},
    "initialTwin": {"tags": {"site": "a"}, "properties": {"desired": {"i": 1}}},
    "etag": "ZXRhZw==",
    "reprovisionPolicy": {"updateHubAssignment": False, "migrateDeviceData": False},
    "registrationState": {"status": "assigned", "assignedHub": "plant-a", "deviceId": "gw"},
}
KEYS = {"type": "symmetricKey", "symmetricKey": {"primaryKey": KEY, "secondaryKey": WRONG_KEY}}


def echo(call: Call) -> Any:
    return call.body


def test_create_with_every_field(run: Run, service: CliService, tmp_path: Path) -> None:
    service.on("PUT", "/enrollments/gateway-01", echo)
    key_file = tmp_path / "keys"
    key_file.write_text(f"{KEY}\r\n{WRONG_KEY}\n")
    tags = tmp_path / "tags.json"
    tags.write_text('{"site": "a"}')
    result = run(
        *("enrollment", "create", "gateway-01", "--device-id", "gw", "--edge"),
        *("--tags", f"@{tags}", "--desired", '{"i": 1}', "--allocation-policy", "static"),
        *("--hub", "plant-a", "--hub", "plant-b", "--provisioning-status", "disabled"),
        *("--reprovision-policy", "reprovisionandresetdata", "--key-file", str(key_file)),
    )
    (call,) = service.calls
    assert call.query == {"api-version": "2021-10-01"}
    assert "if-match" not in call.headers
    assert call.body == {
        "registrationId": "gateway-01",
        "deviceId": "gw",
        "attestation": KEYS,
        "capabilities": {"iotEdge": True},
        "initialTwin": {"tags": {"site": "a"}, "properties": {"desired": {"i": 1}}},
        "allocationPolicy": "static",
        "iotHubs": ["plant-a", "plant-b"],
        "provisioningStatus": "disabled",
        "reprovisionPolicy": {"updateHubAssignment": True, "migrateDeviceData": False},
    }
    assert KEY not in result.output
    assert "reprovisionandresetdata" in result.stdout


def test_create_sends_no_more_than_was_given(run: Run, service: CliService) -> None:
    service.on("PUT", "/enrollments/d1", echo)
    assert parsed(run("enrollment", "create", "d1", "--json")) == service.calls[0].body
    assert service.calls[0].body == {
        "registrationId": "d1",
        "attestation": {"type": "symmetricKey", "symmetricKey": {}},
    }


def test_show_tells_keys_only_when_asked(run: Run, service: CliService) -> None:
    service.on("GET", "/enrollments/gateway-01", ENTRY)
    service.on("POST", "/enrollments/gateway-01/attestationmechanism", KEYS)
    shown = run("enrollment", "show", "gateway-01").stdout
    assert [call.method for call in service.calls] == ["GET"]
    for text in ("assigned", "plant-a", "gw", '{"site":"a"}', '{"i":1}', "never"):
        assert text in shown
    shown = parsed(run("enrollment", "show", "gateway-01", "--show-keys", "--json"))
    assert shown["attestation"] == KEYS
    assert KEY in run("enrollment", "show", "gateway-01", "--show-keys").stdout


def test_update_changes_only_what_is_given(run: Run, service: CliService) -> None:
    service.on("GET", "/enrollments/gateway-01", ENTRY)
    service.on("PUT", "/enrollments/gateway-01", echo)
    run("enrollment", "update", "gateway-01", "--no-edge", "--tags", "{}")
    (call,) = service.sent("PUT", "/enrollments/gateway-01")
    assert call.headers["if-match"] == ENTRY["etag"]
    assert call.body == {
        "registrationId": "gateway-01",
        "attestation": {"type": "symmetricKey", "symmetricKey": {}},
        "capabilities": {"iotEdge": False},
        "initialTwin": {"tags": {}, "properties": {"desired": {"i": 1}}},
        "reprovisionPolicy": ENTRY["reprovisionPolicy"],
    }
    run("enrollment", "update", "gateway-01", "--edge", "--etag", "other")
    assert service.calls[-1].headers["if-match"] == "other"


def test_list_follows_pages(run: Run, service: CliService) -> None:
    def page(call: Call) -> Reply:
        assert call.body == {"query": "SELECT *"}
        first = "x-ms-continuation" not in call.headers
        headers = {"x-ms-continuation": "next"} if first else {}
        return Reply([{**ENTRY, "registrationId": "d1" if first else "d2"}], headers=headers)

    service.on("POST", "/enrollments/query", page)
    found = parsed(run("enrollment", "list", "--json"))
    assert [each["registrationId"] for each in found] == ["d1", "d2"]
    shown = run("enrollment", "list").stdout.splitlines()
    assert [line.split()[0] for line in shown] == ["REGISTRATION", "d1", "d2"]
    run("enrollment", "list", "--top", "1")
    assert service.calls[-1].headers["x-ms-max-item-count"] == "1"


def test_an_empty_list_says_so_on_stderr(run: Run, service: CliService) -> None:
    service.on("POST", "/enrollments/query", [])
    result = run("enrollment", "list")
    assert result.stdout == ""
    assert "There are no individual enrollments" in result.stderr


def test_delete(run: Run, service: CliService) -> None:
    service.on("DELETE", "/enrollments/gateway-01", Reply(status=204))
    run("enrollment", "delete", "gateway-01")
    run("enrollment", "delete", "gateway-01", "--etag", "e1")
    assert [call.headers["if-match"] for call in service.calls] == ["*", "e1"]


def test_a_group(run: Run, service: CliService) -> None:
    path = "/enrollmentGroups/line-7"
    service.on("PUT", path, echo)
    service.on("GET", path, {"enrollmentGroupId": "line-7", "etag": "e1"})
    service.on("DELETE", path, Reply(status=204))
    service.on("POST", "/enrollmentGroups/query", [{"enrollmentGroupId": "line-7"}])
    run("enrollment-group", "create", "line-7", "--edge")
    assert service.calls[-1].body["capabilities"] == {"iotEdge": True}
    run("enrollment-group", "update", "line-7", "--provisioning-status", "disabled")
    assert service.calls[-1].body["provisioningStatus"] == "disabled"
    assert "line-7" in run("enrollment-group", "list").stdout
    assert "line-7" in run("enrollment-group", "show", "line-7").stdout
    run("enrollment-group", "delete", "line-7")


# -- derived keys ------------------------------------------------------------------------------


def derived(registration_id: str, key: str = KEY) -> str:
    group_key = symmetric_keys.decode(key)
    return symmetric_keys.encode(symmetric_keys.derive(group_key, registration_id))


def test_one_derived_key_is_all_that_is_printed(run: Run, service: CliService) -> None:
    service.on("POST", "/enrollmentGroups/line-7/attestationmechanism", KEYS)
    command = ("enrollment-group", "derive-key", "--group", "line-7", "sensor-01")
    assert run(*command).stdout == derived("sensor-01") + "\n"
    assert run(*command, "--secondary").stdout == derived("sensor-01", WRONG_KEY) + "\n"


def test_derive_from_a_file_offline(run: Run, service: CliService, tmp_path: Path) -> None:
    ids, key = tmp_path / "ids.txt", tmp_path / "group.key"
    ids.write_bytes(b"\xef\xbb\xbfs-1\r\n\r\n s-2\t\nS-1\n")
    key.write_text(f"{KEY}\n")
    command = ("enrollment-group", "derive-key", "--key-file", str(key), "--from-file", str(ids))
    result = run(*command, "--json")
    wanted = ["s-1", "s-2", "S-1"]
    assert parsed(result) == [{"registrationId": each, "key": derived(each)} for each in wanted]
    assert "line 3: the blanks around 's-2' are left out" in result.stderr
    assert "line 4: 'S-1' is in line 1 already" in result.stderr
    table = run(*command).stdout.splitlines()
    assert [line.split() for line in table[1:]] == [[each, derived(each)] for each in wanted]
    csv = run(*command, "--csv").stdout.splitlines()
    assert csv == ["registrationId,key", *(f"{each},{derived(each)}" for each in wanted)]
    assert service.calls == []


def test_derive_names_the_line_of_a_bad_id(run: Run, tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("s-1\ns 2\n")
    stderr = run(
        "enrollment-group", "compute-device-key", "--key", KEY, "--from-file", str(ids), code=2
    ).stderr
    assert "line 2: 's 2' is no registration ID" in stderr
    assert KEY not in stderr


# -- registrations -----------------------------------------------------------------------------

STATE = {
    "registrationId": "s-1",
    "status": "assigned",
    "assignedHub": "plant-a",
    "deviceId": "s-1",
    "symmetricKey": {"enrollmentGroupId": "line-7"},
}
DECISION = {
    "trackingId": TRACKING_ID,
    "time": "2026-01-31T12:00:00Z",
    "service": "dps",
    "operation": "register",
    "subject": "s-1",
    "outcome": "refused",
    "check": "group-key-used-directly",
    "title": "Signed with the group key",
    "cause": "The device holds the group's key \x1b[2J.",
    "remedy": "Derive a key for it.",
    "facts": {"group": "line-7", "expired_for_s": 12.5},
}


def test_registrations(run: Run, service: CliService) -> None:
    service.on("GET", "/registrations/s-1", STATE)
    service.on("DELETE", "/registrations/s-1", Reply(status=204))
    service.on("POST", "/registrations/line-7/query", [STATE])
    assert "plant-a" in run("registration", "show", "s-1").stdout
    assert parsed(run("registration", "list", "--group", "line-7", "--json")) == [STATE]
    run("registration", "delete", "s-1")


def test_registrations_of_every_enrollment(run: Run, service: CliService) -> None:
    unassigned = {"registrationId": "d2", "registrationState": {"status": "unassigned"}}
    service.on("POST", "/enrollments/query", [ENTRY, unassigned])
    service.on("POST", "/enrollmentGroups/query", [{"enrollmentGroupId": "line-7"}])
    service.on("POST", "/registrations/line-7/query", [STATE])
    found = parsed(run("registration", "list", "--json"))
    assert [each["deviceId"] for each in found] == ["gw", "s-1"]
    assert len(parsed(run("registration", "list", "--json", "--top", "1"))) == 1


def test_explain(run: Run, service: CliService) -> None:
    service.on("GET", "/admin/v1/explanations/s-1", [DECISION])
    shown = run("registration", "explain", "s-1").stdout
    for text in ("Signed with the group key", "refused", "Derive a key for it.", "line-7", "12.5"):
        assert text in shown
    assert TRACKING_ID in shown
    assert "\x1b" not in shown
    assert parsed(run("registration", "explain", "s-1", "--json")) == [DECISION]


@pytest.mark.parametrize(
    "text",
    [
        TRACKING_ID.upper(),
        TRACKING_ID.replace("-", ""),
        f"{TRACKING_ID.replace('-', '')}-G:0-TimeStamp:01/31/2026 12:00:00",
    ],
)
def test_explain_takes_a_tracking_id_as_clients_show_it(
    run: Run, service: CliService, text: str
) -> None:
    service.on("GET", f"/admin/v1/explanations/{TRACKING_ID}", [DECISION])
    run("registration", "explain", text)


def test_explain_waits_a_moment_then_says_that_there_is_nothing(
    run: Run, service: CliService
) -> None:
    answers = iter([[], [DECISION]])
    service.on("GET", "/admin/v1/explanations/s-1", lambda _: next(answers))
    run("registration", "explain", "s-1")
    service.on("GET", "/admin/v1/explanations/s-2", [])
    assert "Nothing is recorded about s-2" in run("registration", "explain", "s-2", code=1).stderr
