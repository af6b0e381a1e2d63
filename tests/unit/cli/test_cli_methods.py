"""Direct methods: what is sent, and what is shown."""

from __future__ import annotations

import json
from pathlib import Path

from unit.cli.cli_service import TRACKING_ID, CliService, Reply
from unit.cli.conftest import Run, parsed

RESULT = {"status": 207, "payload": {"a": ["\x1b[31m", None]}}


def failure(status: int, number: int, name: str, text: str) -> Reply:
    tracked = f"{TRACKING_ID.replace('-', '')}-G:0-TimeStamp:01/31/2026 12:00:00"
    inner = {"errorCode": number, "trackingId": tracked, "message": text}
    body = {"Message": json.dumps(inner), "ExceptionMessage": ""}
    return Reply(body, status, {"iothub-errorcode": name})


def test_calls(run: Run, service: CliService, tmp_path: Path) -> None:
    service.on("POST", "/twins/d 1/methods", RESULT)
    service.on("POST", "/twins/d 1/modules/$edgeAgent/methods", RESULT)
    text = run("method", "invoke", "d 1", "reboot").stdout
    assert service.calls[-1].body == {
        "methodName": "reboot",
        "payload": None,
        "responseTimeoutInSeconds": 30,
        "connectTimeoutInSeconds": 0,
    }
    assert text.splitlines()[0].split() == ["Status", "207"]
    assert json.loads(text.partition("\n")[2]) == RESULT["payload"]
    assert "\x1b" not in text
    (tmp_path / "payload.json").write_text('"text"')
    options = ("--payload", f"@{tmp_path}/payload.json", "--timeout", "5", "--connect-timeout", "9")
    result = run("method", "invoke", "d 1", "ping", "--module", "$edgeAgent", *options, "--json")
    assert parsed(result) == RESULT
    assert service.calls[-1].body == {
        "methodName": "ping",
        "payload": "text",
        "responseTimeoutInSeconds": 5,
        "connectTimeoutInSeconds": 9,
    }


def test_failures_say_what_to_do(run: Run, service: CliService) -> None:
    call = ("method", "invoke", "d1", "m")
    path = "/twins/d1/methods"
    service.on("POST", path, failure(404, 404103, "DeviceNotOnline", "Timed out waiting."))
    text = run(*call, code=1).stderr
    assert "Timed out waiting." in text
    assert "--connect-timeout" in text
    assert TRACKING_ID in text
    service.on("POST", path, failure(504, 504101, "GatewayTimeout", "No answer."))
    assert "--timeout" in run(*call, code=1).stderr
    service.on("POST", path, failure(404, 404001, "DeviceNotFound", "Unknown."))
    assert "muster device list" in run(*call, code=1).stderr


def test_wrong_usage(run: Run) -> None:
    call = ("method", "invoke", "d1", "m")
    for wrong in (("--timeout", "4"), ("--connect-timeout", "301"), ("--payload", "{")):
        run(*call, *wrong, code=2)
