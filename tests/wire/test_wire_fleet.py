"""`muster fleet simulate` against a running service: what it plays is what the service sees."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from support.device import unique
from support.events import wait_for
from support.secrets import new_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.instance import Instance

COUNT = 50


def simulate(instance: Instance, *options: str, code: int = 0) -> list[dict[str, Any]]:
    """Run a simulation and return the objects it prints; the last is its summary."""
    done = instance.run_cli("fleet", "simulate", "--json", *options)
    assert done.returncode == code, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def devices(instance: Instance, prefix: str) -> dict[str, dict[str, Any]]:
    """Return the devices of a prefix in all hubs, and their twins' reported properties."""
    found = {}
    for host in instance.place.hubs:
        hub = instance.hub(host)
        for device in hub.must("GET", "/devices?top=1000"):
            if device["deviceId"].startswith(prefix):
                twin = hub.must("GET", f"/twins/{device['deviceId']}")
                found[device["deviceId"]] = {"host": host, **device, "twin": twin}
    return found


@pytest.fixture
def group(instance: Instance) -> Iterator[str]:
    name = unique("fleet-group")
    instance.cli("enrollment-group", "create", name)
    yield name
    instance.run_cli("enrollment-group", "delete", name)


def test_fifty_devices(instance: Instance, group: str) -> None:
    prefix = unique("sim") + "-"
    options = ("--group", group, "--prefix", prefix, "--count", str(COUNT), "--rate", "1")
    *progress, summary = simulate(
        instance, *options, "--report-every", "2", "--duration", "8", "--every", "0.5"
    )
    assert {each["type"] for each in progress} == {"progress"}
    assert summary["type"] == "summary"
    assert summary["states"] == {"connected": COUNT}
    assert (summary["provisioned"], summary["registrations"]) == (COUNT, COUNT)
    assert summary["desiredVersions"] == {"1": COUNT}
    assert summary["errors"] == {}
    assert summary["messages"] > COUNT
    assert 0 < summary["ackMs"]["p50"] <= summary["ackMs"]["p99"]

    found = devices(instance, prefix)
    assert len(found) == COUNT
    reported = [device["twin"]["properties"]["reported"] for device in found.values()]
    assert all(each["simulation"]["appliedVersion"] == 1 for each in reported)
    assert all(each["simulation"]["sent"] >= 0 for each in reported)
    wait_for(
        lambda: all(
            device["connectionState"] == "Disconnected"
            for device in devices(instance, prefix).values()
        )
    )
    assert sum(messages(instance, prefix).values()) >= summary["messages"]


def messages(instance: Instance, prefix: str) -> dict[str, int]:
    """Count the telemetry of each device of a prefix, as `events tail` shows it."""
    counts: dict[str, int] = {}
    for host in instance.place.hubs:
        tail = ("events", "tail", "--hub", host, "--from", "earliest", "--no-follow", "--json")
        done = instance.run_cli(*tail)
        assert done.returncode == 0, done.stderr
        for line in done.stdout.splitlines():
            event = json.loads(line)
            if event["deviceId"].startswith(prefix):
                assert event["bodyEncoding"] == "json"
                counts[event["deviceId"]] = counts.get(event["deviceId"], 0) + 1
                assert event["body"]["number"] >= 1
    return counts


def agents(instance: Instance, prefix: str) -> list[dict[str, Any]]:
    """Return what the `$edgeAgent` of each device of a prefix reports."""
    return [
        instance.hub(device["host"]).must("GET", agent_path(device_id))["properties"]["reported"]
        for device_id, device in devices(instance, prefix).items()
    ]


def agent_path(device_id: str) -> str:
    return f"/twins/{device_id}/modules/%24edgeAgent"


def test_edge_devices_report_as_their_agents(instance: Instance) -> None:
    prefix, name = unique("edge") + "-", unique("edge-group")
    options = ("--edge", "--prefix", prefix, "--count", "3")
    follow = instance.follow("fleet", "simulate", "--create-group", name, *options)
    for shown in follow:
        if shown["states"] == {"connected": 3}:
            break
    answer = instance.cli(
        *("method", "invoke", f"{prefix}1", "ping", "--module", "$edgeAgent"),
        *("--hub", devices(instance, prefix)[f"{prefix}1"]["host"], "--payload", '{"x": 1}'),
    )
    assert answer == {"status": 200, "payload": {"x": 1}}
    deployed = {"properties": {"desired": {"schemaVersion": "1.1", "modules": {}}}}
    for device_id, device in devices(instance, prefix).items():
        instance.hub(device["host"]).must("PATCH", agent_path(device_id), deployed)
    wait_for(
        lambda: (
            [
                (each.get("lastDesiredVersion"), (each.get("lastDesiredStatus") or {}).get("code"))
                for each in agents(instance, prefix)
            ]
            == [(2, 200)] * 3
        )
    )
    follow.close()

    # The same devices again; this time nothing is left of them.
    *_, summary = simulate(instance, "--group", name, *options, "--duration", "5", "--clean")
    assert summary["desiredVersions"] == {"2": 3}
    assert devices(instance, prefix) == {}
    assert instance.cli("registration", "list", "--group", name) == []
    assert instance.run_cli("enrollment-group", "delete", name).returncode == 0


def test_a_wrong_key_is_one_clear_error(instance: Instance, tmp_path: Path) -> None:
    file = tmp_path / "group.key"
    file.write_text(new_key())
    done = instance.run_cli(
        *("fleet", "simulate", "--count", "1000", "--group-key-file", str(file))
    )
    assert done.returncode == 1
    first, second = done.stderr.strip().splitlines()[-2:]
    assert "The first device, sim-" in first
    assert "was refused: Unauthorized (error 401" in first
    assert "Next: muster registration explain sim-" in second


def test_a_host_that_does_not_answer(instance: Instance) -> None:
    key = base64.b64encode(bytes(32)).decode()
    options = ("--group-key", key, "--id-scope", "0ne1", "--dps-host", "localhost:1")
    done = instance.run_cli("fleet", "simulate", *options)
    assert done.returncode == 3
    assert "Cannot reach localhost:1: connection refused" in done.stderr
    assert key not in done.stderr
