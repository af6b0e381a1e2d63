"""10: telemetry over AMQP, beside RabbitMQ and beside our own MQTT."""

from __future__ import annotations

from typing import Any

from benchmarks import peers
from benchmarks.load.job import Device
from benchmarks.place import directory, find, load
from benchmarks.report import Row, cost
from benchmarks.service import HOST, muster

_SHAPES: tuple[tuple[str, dict[str, Any], int], ...] = (
    ("telemetry over AMQP, one in flight", {}, 64),
    ("telemetry over AMQP, batched", {"batch": 20, "window": 200}, 8),
)


def amqp(*, quick: bool) -> list[Row]:
    """Measure durable telemetry, accepted by the receiver, one in flight and batched."""
    rows: list[Row] = []
    runs, seconds = (1, 2.0) if quick else (3, 5.0)
    for what, shape, count in _SHAPES:
        fields = {"seconds": seconds, "connections": count, **shape}
        with directory() as work:
            data = work / "data"
            ours, theirs, mqtt = [], [], []
            with muster(data) as service:
                devices = service.devices(count)
                port = service.facts["ports"]["amqp"]
                senders = [
                    Device(
                        each.client_id,
                        f"{each.client_id}@sas.{HOST}",
                        each.password,
                        f"/devices/{each.client_id}/messages/events",
                    )
                    for each in devices
                ]
                publishers = [
                    Device(each.client_id, "guest", "guest", f"/queue/{each.client_id}")
                    for each in devices
                ]
                for turn in range(runs):
                    ours.append(load(service.job("amqp", devices=senders, port=port, **fields)))
                    mqtt.append(load(service.job("telemetry", devices=devices, **fields)))
                    if find("rabbitmq-server"):
                        place = work / str(turn)
                        place.mkdir()
                        with peers.rabbitmq(place, data / "ca") as peer:
                            theirs.append(load(peer.job("amqp", devices=publishers, **fields)))
        first = cost(what, "muster", ours)
        rows += [first, _beside(first, cost(what, "muster, over MQTT", mqtt))]
        if theirs:
            rows.append(_beside(first, cost(what, "rabbitmq-server, durable queues", theirs)))
    return rows


def _beside(ours: Row, row: Row) -> Row:
    row.ratio = row.value / ours.value
    return row
