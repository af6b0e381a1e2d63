"""`muster message`: cloud-to-device messages, from both ends."""

from __future__ import annotations

import base64
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from muster.cli.client import path
from muster.cli.noun import NounGroup
from muster.cli.options import confirm, hub_option, service_command, yes_option
from muster.clock import SystemClock, format_time
from muster.ids import Randomness
from muster.terminal.examples import examples
from muster.terminal.output import remark, show_json, show_record, show_table, to_json

if TYPE_CHECKING:
    import requests

    from muster.cli.connection import Invocation

FEEDBACK: Final = "/messages/serviceBound/feedback"
POLL_S: Final = 2.0
"""Seconds between two questions for feedback."""

_PREFIX: Final = "iothub-app-"
_SYSTEM: Final = (
    ("messageId", "IoTHub-MessageId"),
    ("correlationId", "IoTHub-CorrelationId"),
    ("userId", "IoTHub-UserId"),
    ("to", "IoTHub-To"),
    ("contentType", "ContentType"),
    ("contentEncoding", "ContentEncoding"),
    ("ack", "IoTHub-Ack"),
    ("expiryTimeUtc", "IoTHub-Expiry"),
    ("enqueuedTimeUtc", "IoTHub-EnqueuedTime"),
)


@click.group(cls=NounGroup)
@examples(
    "muster message send sensor-7 'restart at midnight' --ack full",
    "muster message feedback --follow",
)
def message() -> None:
    """Cloud-to-device messages: send, settle, purge; what became of them."""


_device = click.argument("device_id")
_token = click.argument("lock_token")
_module = click.option("--module", "module_id", metavar="ID", help="The queue of this module.")


def _read_property(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not name:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE.")
        found[name] = value if equals else None
    return found


@message.command()
@_device
@click.argument("text", required=False)
@_module
@click.option(
    "--file",
    "body_file",
    type=click.File("rb"),
    help="Send what is in this file, or with - on stdin, instead of TEXT.",
)
@click.option(
    "--property",
    "properties",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_read_property,
    help="A property of your own; may be repeated.",
)
@click.option(
    "--ack",
    type=click.Choice(["none", "positive", "negative", "full"]),
    default="none",
    show_default=True,
    help="Of which outcomes to be told; see muster message feedback.",
)
@click.option("--message-id", metavar="ID", help="Its number [default: a random one].")
@click.option("--correlation-id", metavar="ID", help="What it belongs to.")
@click.option("--content-type", metavar="TYPE", help="For example application/json.")
@click.option("--content-encoding", metavar="NAME", help="For example utf-8.")
@click.option(
    "--ttl",
    "ttl_s",
    type=click.IntRange(1, 172_800),
    metavar="SECONDS",
    help="Time it waits for the device, up to 172800 (two days) [default: an hour].",
)
@hub_option
@service_command
@examples(
    "muster message send sensor-7 'restart at midnight'",
    "muster message send sensor-7 '{\"valve\": 3}' --content-type application/json --ack full",
    "muster message send gateway-01 --module filter --file rules.bin --property version=7",
)
def send(
    invocation: Invocation,
    *,
    device_id: str,
    text: str | None,
    module_id: str | None,
    body_file: Any,
    properties: dict[str, str | None],
    ack: str,
    message_id: str | None,
    correlation_id: str | None,
    content_type: str | None,
    content_encoding: str | None,
    ttl_s: int | None,
    hub_host: str | None,
) -> None:
    """Send a message to a device or module. It waits in its queue until it is received."""
    if (text is None) == (body_file is None):
        raise click.UsageError("Give either TEXT or --file.")
    content = text.encode() if text is not None else body_file.read()
    body: dict[str, Any] = {
        "body": base64.b64encode(content).decode(),
        "messageId": message_id or Randomness().uuid(),
        "correlationId": correlation_id,
        "contentType": content_type,
        "contentEncoding": content_encoding,
        "ack": ack,
        "properties": properties,
    }
    if ttl_s is not None:
        expiry = datetime.fromtimestamp(SystemClock().time() + ttl_s, UTC)
        body["expiryTimeUtc"] = format_time(expiry)
    invocation.hub(hub_host).post(*_place("/admin/v1/messages", device_id, module_id), body=body)
    if invocation.as_json:
        show_json({"messageId": body["messageId"]})
        return
    show_record([("Message ID", body["messageId"])])


@message.command()
@_device
@_module
@click.option(
    "--lock-timeout",
    "lock_s",
    type=click.IntRange(1, 300),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="Time in which it can be settled; then it is available again.",
)
@click.option(
    "--complete", "how", flag_value="complete", help="Complete it at once: it was processed."
)
@click.option("--reject", "how", flag_value="reject", help="Reject it at once.")
@click.option("--abandon", "how", flag_value="abandon", help="Give it back at once.")
@hub_option
@service_command
@examples(
    "muster message receive sensor-7",
    "muster message receive sensor-7 --complete --json",
)
def receive(
    invocation: Invocation,
    *,
    device_id: str,
    module_id: str | None,
    lock_s: int,
    how: str | None,
    hub_host: str | None,
) -> None:
    """Receive the oldest message in place of the device.

    It is locked: the device does not get it until it is settled or the time is up.
    """
    client = invocation.hub(hub_host)
    reply = client.call(
        "GET",
        path(*_inbox(device_id, module_id)),
        headers={"IoTHub-MessageLockTimeout": str(lock_s)},
    )
    if reply.status_code == 204:
        if invocation.as_json:
            show_json(None)
        else:
            remark("No message is available.")
        return
    found = _read(reply)
    if how is not None:
        _settle(invocation, (device_id, module_id), found["lockToken"], how, hub_host)
    if invocation.as_json:
        show_json(found)
        return
    show_record(
        [
            ("Message ID", found.get("messageId")),
            ("Correlation ID", found.get("correlationId")),
            ("Content type", found.get("contentType")),
            ("Ack", found.get("ack")),
            ("Enqueued", found.get("enqueuedTimeUtc")),
            ("Expires", found.get("expiryTimeUtc")),
            ("Abandoned before", found["deliveryCount"]),
            ("Properties", found["properties"]),
            ("Lock token", None if how else found["lockToken"]),
            ("Body", found["body"]),
        ]
    )


def _settle(
    invocation: Invocation,
    queue: tuple[str, str | None],
    token: str,
    how: str,
    hub_host: str | None,
) -> None:
    client = invocation.hub(hub_host)
    place = (*_inbox(*queue), token)
    if how == "abandon":
        client.call("POST", path(*place, "abandon"), if_match=token)
    else:
        params = {"reject": ""} if how == "reject" else None
        client.call("DELETE", path(*place), params=params, if_match=token)


@message.command()
@_device
@_token
@_module
@hub_option
@service_command
@examples("muster message complete sensor-7 5f2f5ba0-87e5-4f44-9e2c-8d1c3d0a6f0e")
def complete(
    invocation: Invocation,
    *,
    device_id: str,
    lock_token: str,
    module_id: str | None,
    hub_host: str | None,
) -> None:
    """Complete a received message: it was processed and is gone."""
    _settle(invocation, (device_id, module_id), lock_token, "complete", hub_host)


@message.command()
@_device
@_token
@_module
@hub_option
@service_command
@examples("muster message reject sensor-7 5f2f5ba0-87e5-4f44-9e2c-8d1c3d0a6f0e")
def reject(
    invocation: Invocation,
    *,
    device_id: str,
    lock_token: str,
    module_id: str | None,
    hub_host: str | None,
) -> None:
    """Reject a received message: it cannot be processed and is gone."""
    _settle(invocation, (device_id, module_id), lock_token, "reject", hub_host)


@message.command()
@_device
@_token
@_module
@hub_option
@service_command
@examples("muster message abandon sensor-7 5f2f5ba0-87e5-4f44-9e2c-8d1c3d0a6f0e")
def abandon(
    invocation: Invocation,
    *,
    device_id: str,
    lock_token: str,
    module_id: str | None,
    hub_host: str | None,
) -> None:
    """Give a received message back; the tenth time ends it."""
    _settle(invocation, (device_id, module_id), lock_token, "abandon", hub_host)


@message.command()
@_device
@_module
@yes_option
@hub_option
@service_command
@examples("muster message purge sensor-7")
def purge(
    invocation: Invocation,
    *,
    device_id: str,
    module_id: str | None,
    yes: bool,
    hub_host: str | None,
) -> None:
    """Remove all messages that wait for a device or module."""
    confirm(f"Remove all messages that wait for {device_id}?", yes=yes)
    client = invocation.hub(hub_host)
    place = (*_place("/devices", device_id, module_id), "commands")
    result = client.call("DELETE", path(*place)).json()
    if invocation.as_json:
        show_json(result)
        return
    count = result["totalMessagesPurged"]
    remark(f"{count} message{'s were' if count != 1 else ' was'} removed.")


@message.command()
@click.option("--follow", is_flag=True, help="Wait for more, until Ctrl-C.")
@hub_option
@service_command
@examples("muster message feedback", "muster message feedback --follow --json")
def feedback(invocation: Invocation, *, follow: bool, hub_host: str | None) -> None:
    """Show what became of messages that were sent with --ack. With --json an object a line.

    Each outcome is shown once and to one reader; it comes up to 15 seconds after the fact.
    """
    client = invocation.hub(hub_host)
    try:
        shown = False
        while True:
            reply = client.call("GET", FEEDBACK)
            if reply.status_code == 200:
                _show_feedback(invocation, reply.json())
                # Only now: who is interrupted before this sees it again.
                client.delete(FEEDBACK, reply.headers["ETag"].strip('"'))
                shown = True
            elif follow:
                time.sleep(POLL_S)
            else:
                break
    except KeyboardInterrupt:
        return
    if not shown and not invocation.as_json:
        remark("There is no feedback now.")


def _show_feedback(invocation: Invocation, records: list[dict[str, Any]]) -> None:
    if invocation.as_json:
        for record in records:
            click.echo(to_json(record, indent=None))
    else:
        show_table(
            ("TIME", "DEVICE ID", "MESSAGE ID", "OUTCOME"),
            [
                (
                    record.get("enqueuedTimeUtc"),
                    record.get("deviceId"),
                    record.get("originalMessageId"),
                    record.get("statusCode"),
                )
                for record in records
            ],
            empty="",
        )
    sys.stdout.flush()


def _place(base: str, device_id: str, module_id: str | None) -> tuple[str, ...]:
    return (base, device_id, *(("modules", module_id) if module_id is not None else ()))


def _inbox(device_id: str, module_id: str | None) -> tuple[str, ...]:
    return (*_place("/devices", device_id, module_id), "messages", "devicebound")


def _read(reply: requests.Response) -> dict[str, Any]:
    """Return a received message as one object, its body as text or in base64."""
    headers = reply.headers
    found: dict[str, Any] = {name: headers[each] for name, each in _SYSTEM if each in headers}
    found["lockToken"] = headers.get("ETag", "").strip('"')
    found["deliveryCount"] = int(headers.get("IoTHub-DeliveryCount", "0"))
    found["properties"] = {
        name[len(_PREFIX) :]: value
        for name, value in headers.items()
        if name.lower().startswith(_PREFIX)
    }
    try:
        found["body"], found["bodyEncoding"] = reply.content.decode(), "utf-8"
    except UnicodeDecodeError:
        found["body"], found["bodyEncoding"] = base64.b64encode(reply.content).decode(), "base64"
    return found
