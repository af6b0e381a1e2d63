"""1 to 3: registration, durable telemetry and idle connections, beside peers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.load.job import Device, Result
from benchmarks.place import directory, find, load
from benchmarks.report import Row, cost
from benchmarks.service import muster
from benchmarks.transports import memory

_Start = Callable[[Path, Path], AbstractContextManager[peers.Peer]]


def registration(*, quick: bool) -> list[Row]:
    """Measure registrations over cold TLS 1.3 connections."""
    what = "registration"
    runs, window = _effort(quick=quick)
    with directory() as work:
        data = work / "data"
        ours, broker, ceiling = [], [], []
        with muster(data) as service:
            service.enroll_group()
            for turn in range(runs):
                # One after the other in each round, so that all meet the same machine.
                ours.append(load(service.registrations(prefix=f"cold{turn}-", **window)))
                if find("mosquitto"):
                    with peers.mosquitto(work, data / "ca", responder=True) as peer:
                        prefix = f"cold{turn}-"
                        broker.append(load(peer.job("registration", prefix=prefix, **window)))
                if find("nginx"):
                    with peers.nginx(work, data / "ca") as peer:
                        ceiling.append(load(peer.job("http", **window)))
    rows = [cost(what, "muster", ours)]
    if broker:
        rows += _beside(rows[0], "mosquitto + responder", broker, ">= 1.0")
    if ceiling:
        rows += _beside(rows[0], "nginx, bare handshake", ceiling, ">= 0.8")
    return rows


def telemetry(*, quick: bool) -> list[Row]:
    """Measure QoS 1 telemetry, one in flight and batched."""
    rows: list[Row] = []
    runs, window = _effort(quick=quick)
    shapes: list[tuple[str, dict[str, Any], int, str]] = [
        ("telemetry, one in flight", {"connections": 64}, 64, ">= 1.2"),
        ("telemetry, batched", {"connections": 8, "batch": 20, "window": 200}, 8, ">= 3"),
    ]
    for what, shape, count, goal in shapes:
        fields = window | shape
        with directory() as work:
            data = work / "data"
            ours, stored, unstored, plain = [], [], [], []
            with muster(data) as service:
                devices = service.devices(count)
                anonymous = [Device(each.client_id, topic=each.topic) for each in devices]
                for turn in range(runs):
                    ours.append(load(service.job("telemetry", devices=devices, **fields)))
                    fields["devices"] = anonymous
                    place = work / str(turn)
                    place.mkdir()
                    if find("nats-server"):
                        fields["offline_subscriber"] = True
                        stored.append(_measure(peers.nats, place, data, fields))
                        fields["offline_subscriber"] = False
                        (place / "second").mkdir()
                        unstored.append(_measure(peers.nats, place / "second", data, fields))
                    if find("mosquitto"):
                        plain.append(_measure(peers.mosquitto, place, data, fields))
                    del fields["devices"]
                    fields.pop("offline_subscriber", None)
        first = cost(what, "muster", ours)
        rows.append(first)
        if stored:
            rows += _beside(first, "nats-server, kept in JetStream", stored, goal)
            rows += _beside(first, "nats-server, nobody waits for it", unstored)
        if plain:
            rows += _beside(first, "mosquitto, not durable", plain)
    return rows


def idle(*, quick: bool) -> list[Row]:
    """Measure memory per idle TLS connection."""
    count = 1_000 if quick else 5_000
    what = f"{count:,} idle connections"
    sources = [f"127.0.2.{number}" for number in range(1, 9)]
    with directory() as work:
        data = work / "data"
        with muster(data) as service:
            devices = service.devices(count)
        with muster(data) as service:
            ours = load(service.job("idle", devices=devices, sources=sources))
        rows = [memory(what, "muster", ours)]
        if find("mosquitto"):
            anonymous = [Device(each.client_id) for each in devices]
            with peers.mosquitto(work, data / "ca") as peer:
                theirs = load(peer.job("idle", devices=anonymous, sources=sources))
            row = memory(what, "mosquitto", theirs)
            row.ratio, row.goal = rows[0].value / row.value, "<= 1.5"
            rows.append(row)
    return rows


def _effort(*, quick: bool) -> tuple[int, dict[str, Any]]:
    return (1, {"seconds": 2.0}) if quick else (3, {"seconds": 5.0})


def _measure(start: _Start, work: Path, data: Path, fields: dict[str, Any]) -> Result:
    with start(work, data / "ca") as peer:
        return load(peer.job("telemetry", **fields))


def _beside(ours: Row, subject: str, results: list[Result], goal: str = "") -> list[Row]:
    row = cost(ours.what, subject, results)
    row.ratio, row.goal = row.value / ours.value, goal
    return [row]
