"""12: memory of an idle connection, by transport, beside brokers that have the same one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.load.job import Device, Result
from benchmarks.place import directory, find, load
from benchmarks.report import Row
from benchmarks.service import HOST, Muster, muster

_Start = Callable[[Path, Path], AbstractContextManager[peers.Peer]]
_MQTT = ("/$iothub/websocket", "mqtt")
_AMQP = ("/$iothub/websocket", "AMQPWSB10")


def transports(*, quick: bool) -> list[Row]:
    """Measure connections that do nothing: MQTT and AMQP, each with and without a WebSocket."""
    count = 500 if quick else 2_000
    shapes: list[tuple[str, str, str, tuple[str, str] | None]] = [
        ("MQTT", "idle", "mqtt", None),
        ("MQTT over WebSockets", "idle", "https", _MQTT),
        ("AMQP, one link", "amqp-idle", "amqp", None),
        ("AMQP over WebSockets, one link", "amqp-idle", "https", _AMQP),
    ]
    rows: list[Row] = []
    for name, kind, port, websocket in shapes:
        what = f"{count:,} idle connections, {name}"
        fields: dict[str, Any] = {"websocket": websocket, "sources": _SOURCES}
        with directory() as work:
            data = work / "data"
            with muster(data) as service:
                devices = _devices(service, kind, count)
            # Started again: making devices costs memory that is no connection's.
            with muster(data) as service:
                at = service.facts["ports"][port]
                ours = load(service.job(kind, devices=devices, port=at, **fields))
            rows.append(memory(what, "muster", ours))
            found = _peer(kind, websocket is not None)
            if found is not None:
                subject, start = found
                with start(work, data / "ca") as peer:
                    theirs = load(peer.job(kind, devices=_anonymous(kind, devices), **fields))
                rows.append(memory(what, subject, theirs))
                rows[-1].ratio = rows[-2].value / rows[-1].value
    return rows


_SOURCES = [f"127.0.2.{number}" for number in range(1, 9)]


def _devices(service: Muster, kind: str, count: int) -> list[Device]:
    devices = service.devices(count)
    if kind == "idle":
        return devices
    return [
        Device(
            each.client_id,
            f"{each.client_id}@sas.{HOST}",
            each.password,
            f"/devices/{each.client_id}/messages/events",
        )
        for each in devices
    ]


def _anonymous(kind: str, devices: list[Device]) -> list[Device]:
    if kind == "idle":
        return [Device(each.client_id) for each in devices]
    # One queue for all: queues are not what is measured.
    return [Device(each.client_id, "guest", "guest", "/queue/idle") for each in devices]


def _peer(kind: str, websocket: bool) -> tuple[str, _Start] | None:  # noqa: FBT001 - a table's key
    if kind == "idle" and find("mosquitto"):
        return "mosquitto", peers.mosquitto_websockets if websocket else peers.mosquitto
    if kind == "amqp-idle" and not websocket and find("rabbitmq-server"):
        return "rabbitmq-server", peers.rabbitmq
    return None


def memory(what: str, subject: str, result: Result) -> Row:
    """Return memory of a connection as a row."""
    note = f"failures: {result.failures}" if result.failures else ""
    value = result.server_memory / result.operations / 1_024
    return Row(what=what, subject=subject, value=value, unit="KiB/connection", note=note)
