"""11: messages to devices, AMQP in and MQTT out, beside a broker that keeps nothing."""

from __future__ import annotations

from typing import Any

from benchmarks import peers
from benchmarks.load.job import Device
from benchmarks.place import directory, find, load
from benchmarks.report import Row, cost
from benchmarks.service import HOST, muster

_DEVICES = 64


def devicebound(*, quick: bool) -> list[Row]:
    """Measure messages that are stored, delivered with QoS 1, acknowledged and removed."""
    rows: list[Row] = []
    runs, seconds = (1, 2.0) if quick else (3, 5.0)
    for window in (1, 128):
        fields: dict[str, Any] = {"seconds": seconds, "window": window}
        with directory() as work:
            data = work / "data"
            ours, theirs = [], []
            with muster(data) as service:
                devices = service.devices(_DEVICES)
                anonymous = [Device(each.client_id) for each in devices]
                sends: dict[str, Any] = {
                    "backend": Device(
                        "backend",
                        f"iothubowner@sas.root.{HOST.partition('.')[0]}",
                        service.hub().token,
                        "/messages/devicebound",
                    ),
                    "amqp_port": service.facts["ports"]["amqp"],
                }
                for turn in range(runs):
                    job = service.job("devicebound", devices=devices, **sends, **fields)
                    ours.append(load(job))
                    if find("mosquitto"):
                        place = work / str(turn)
                        place.mkdir()
                        with peers.mosquitto(place, data / "ca") as peer:
                            job = peer.job("devicebound", devices=anonymous, **fields)
                            theirs.append(load(job))
        what = f"messages to devices, {window} on the way"
        rows.append(cost(what, "muster, AMQP in, MQTT out, durable", ours))
        if theirs:
            rows.append(cost(what, "mosquitto, MQTT in and out, not durable", theirs))
            rows[-1].ratio = rows[-1].value / rows[-2].value
    return rows
