"""Cloud-to-device messages: what is sent, and what is shown."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from unit.cli.cli_service import Call, CliService, Reply, hub_refusal
from unit.cli.conftest import Run, parsed

INBOX = "/devices/d 1/messages/devicebound"
TOKEN = "5f2f5ba0-87e5-4f44-9e2c-8d1c3d0a6f0e"
FEEDBACK = "/messages/serviceBound/feedback"
RECEIVED = {
    "ETag": f'"{TOKEN}"',
    "IoTHub-MessageId": "m\x1b1",
    "IoTHub-EnqueuedTime": "2026-01-31T12:00:00Z",
    "IoTHub-DeliveryCount": "2",
    "ContentType": "text/plain",
    "iothub-app-a": "b",
}


def test_send(run: Run, service: CliService, tmp_path: Path) -> None:
    service.on("POST", "/admin/v1/messages/d 1", Reply(None, 204))
    service.on("POST", "/admin/v1/messages/d 1/modules/m", Reply(None, 204))
    result = parsed(run("message", "send", "d 1", "ü", "--json"))
    body = service.calls[-1].body
    assert base64.b64decode(body["body"]).decode() == "ü"
    assert body["messageId"] == result["messageId"]
    assert len(result["messageId"]) == 36
    assert "expiryTimeUtc" not in body
    assert body["ack"] == "none"
    (tmp_path / "body").write_bytes(b"\x00\xff")
    options = (
        *("--module", "m", "--file", str(tmp_path / "body"), "--property", "a=b=c"),
        *("--property", "none", "--ack", "full", "--message-id", "7", "--correlation-id", "c"),
        *("--content-type", "t", "--content-encoding", "e", "--ttl", "60"),
    )
    assert run("message", "send", "d 1", *options).stdout.split() == ["Message", "ID", "7"]
    body = service.calls[-1].body
    assert body.pop("expiryTimeUtc").endswith("Z")
    assert body == {
        "body": "AP8=",
        "messageId": "7",
        "correlationId": "c",
        "contentType": "t",
        "contentEncoding": "e",
        "ack": "full",
        "properties": {"a": "b=c", "none": None},
    }


def test_wrong_usage(run: Run) -> None:
    for arguments in (
        ("send", "d1"),
        ("send", "d1", "text", "--file", "-"),
        ("send", "d1", "text", "--property", "=x"),
        ("send", "d1", "text", "--ttl", "172801"),
        ("receive", "d1", "--lock-timeout", "0"),
        ("complete", "d1"),
    ):
        run("message", *arguments, code=2)


def test_receive(run: Run, service: CliService) -> None:
    service.on("GET", INBOX, Reply(None, 204))
    assert "No message" in run("message", "receive", "d 1").stderr
    assert parsed(run("message", "receive", "d 1", "--json")) is None
    service.on("GET", INBOX, Reply(b"hello", 200, RECEIVED))
    text = run("message", "receive", "d 1", "--lock-timeout", "5").stdout
    assert service.calls[-1].headers["iothub-messagelocktimeout"] == "5"
    for shown in ("hello", TOKEN, '{"a":"b"}', "m\\x1b1"):
        assert shown in text
    service.on("GET", INBOX, Reply(b"\xff", 200, RECEIVED))
    found = parsed(run("message", "receive", "d 1", "--json"))
    assert (found["body"], found["bodyEncoding"]) == ("/w==", "base64")
    assert (found["lockToken"], found["deliveryCount"]) == (TOKEN, 2)


def test_settle(run: Run, service: CliService) -> None:
    module = "/devices/d 1/modules/m/messages/devicebound"
    service.on("GET", INBOX, Reply(b"hello", 200, RECEIVED))
    for path in (f"{INBOX}/{TOKEN}", f"{module}/{TOKEN}"):
        service.on("DELETE", path, Reply(None, 204))
        service.on("POST", f"{path}/abandon", Reply(None, 204))
    for how in ("complete", "reject", "abandon"):
        for arguments in (
            (how, "d 1", TOKEN),
            (how, "d 1", TOKEN, "--module", "m"),
            ("receive", "d 1", f"--{how}"),
        ):
            run("message", *arguments)
            call = service.calls[-1]
            assert call.method == ("POST" if how == "abandon" else "DELETE")
            assert call.headers["if-match"] == TOKEN
            assert call.path.startswith(module if "--module" in arguments else INBOX)
            assert call.path.endswith("/abandon") is (how == "abandon")
    refused = hub_refusal(412, "DeviceMessageLockLost", "The message is not locked.")
    service.on("DELETE", f"{INBOX}/{TOKEN}", refused)
    assert "muster message receive" in run("message", "complete", "d 1", TOKEN, code=1).stderr


def test_purge(run: Run, service: CliService) -> None:
    result = {"totalMessagesPurged": 1, "deviceId": "d 1", "moduleId": None}
    service.on("DELETE", "/devices/d 1/commands", result)
    service.on("DELETE", "/devices/d 1/modules/m/commands", {**result, "totalMessagesPurged": 2})
    assert "1 message was removed" in run("message", "purge", "d 1").stderr
    assert "2 messages were removed" in run("message", "purge", "d 1", "--module", "m").stderr
    assert parsed(run("message", "purge", "d 1", "--json")) == result


def test_feedback(run: Run, service: CliService) -> None:
    record = {
        "originalMessageId": "m1",
        "enqueuedTimeUtc": "2026-01-31T12:00:00Z",
        "statusCode": "Success",
        "description": "Success",
        "deviceId": "d\x1b1",
        "deviceGenerationId": "1",
    }
    service.on("DELETE", f"{FEEDBACK}/{TOKEN}", Reply(None, 204))

    def answers(*batches: list[dict[str, str]]) -> None:
        left = list(batches)

        def answer(_: Call) -> Reply:
            return Reply(left.pop(0), 200, {"ETag": f'"{TOKEN}"'}) if left else Reply(None, 204)

        service.on("GET", FEEDBACK, answer)

    answers()
    assert "no feedback" in run("message", "feedback").stderr
    answers([record], [record, record])
    lines = run("message", "feedback", "--json").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [record] * 3
    assert len(service.sent("DELETE", f"{FEEDBACK}/{TOKEN}")) == 2
    answers([record])
    text = run("message", "feedback").stdout
    assert "\x1b" not in text
    assert text.splitlines()[-1].split()[-2:] == ["m1", "Success"]


def test_a_full_queue_says_what_to_do(run: Run, service: CliService) -> None:
    refused = hub_refusal(403, "DeviceMaximumQueueDepthExceeded", "50 messages wait.")
    service.on("POST", "/admin/v1/messages/d1", refused)
    assert "muster message purge" in run("message", "send", "d1", "x", code=1).stderr
