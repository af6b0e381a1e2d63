"""`muster fault`: what is sent, and what is shown."""

from __future__ import annotations

from typing import Any

from unit.cli.cli_service import CliService, Reply
from unit.cli.conftest import Run, parsed

HUB = "/admin/v1/hubs/plant-a"
FAULT_ID = "8f14e45f-ceea-467f-a83c-d5e9a1b2c3d4"


def shown(**fields: Any) -> dict[str, Any]:
    return {
        "id": FAULT_ID,
        "kind": "delay",
        "error": None,
        "deviceIds": ["d1"],
        "prefix": "",
        "targetCondition": "",
        "devicesChosen": None,
        "probability": 0.5,
        "delay": 2.0,
        "createdTime": "2026-01-01T00:00:00.5Z",
        "expiryTime": "2026-01-01T00:01:00.5Z",
        "orderedBy": "operator",
        "operation": None,
        "injected": 7,
        **fields,
    }


def test_a_fault_is_created(run: Run, service: CliService) -> None:
    service.on("GET", "/admin/v1/hubs", [{"host": "plant-a", "local": True}])
    service.on("POST", f"{HUB}/faults", shown())
    result = run(
        *("fault", "create", "delay", "--device-id", "d1", "--device-id", "d2"),
        *("--delay", "2", "--probability", "0.5", "--duration", "30"),
    )
    assert service.calls[-1].body == {
        "kind": "delay",
        "duration": 30.0,
        "deviceIds": ["d1", "d2"],
        "prefix": "",
        "targetCondition": "",
        "probability": 0.5,
        "delay": 2.0,
        "error": None,
    }
    assert "2026-01-01T00:01:00.5Z" in result.stdout
    assert f"muster fault delete {FAULT_ID}" in result.stderr


def test_what_makes_no_fault(run: Run, service: CliService) -> None:
    for wrong in (
        ("delay", "--prefix", "d"),
        ("reset", "--prefix", "d", "--delay", "1"),
        ("reset",),
        ("reset", "--prefix", "d", "--device-id", "e"),
        ("reset", "--prefix", "d", "--probability", "0"),
    ):
        run("fault", "create", *wrong, "--hub", "plant-a", code=2)
    unsaid = run("fault", "create", "delay", "--prefix", "d", "--hub", "plant-a", code=2)
    assert "needs --delay SECONDS" in unsaid.stderr
    assert service.calls == []


def test_the_switch(run: Run, service: CliService) -> None:
    service.on("GET", "/admin/v1/hubs", [{"host": "plant-a", "local": True}, {"host": "b"}])
    service.on("PUT", f"{HUB}/fault-injection", {"enabled": True})
    assert "on for plant-a" in run("fault", "enable").stderr
    assert service.calls[-1].body == {"enabled": True}
    assert "off for plant-a" in run("fault", "disable", "--hub", "plant-a").stderr
    assert service.calls[-1].body == {"enabled": False}


def test_a_hub_without_fault_injection(run: Run, service: CliService) -> None:
    service.on("GET", f"{HUB}/fault-injection", {"enabled": False})
    service.on("GET", f"{HUB}/faults", [])
    service.on("POST", f"{HUB}/faults", Reply({"errorCode": 409202, "message": "Off."}, 409))
    at = ("--hub", "plant-a")
    assert "muster fault enable" in run("fault", "list", *at).stderr
    create = ("fault", "create", "reset", "--prefix", "d", *at)
    assert "muster fault enable --hub plant-a" in run(*create, code=1).stderr
    service.on("GET", f"{HUB}/fault-injection", {"enabled": True})
    assert "enable" not in run("fault", "list", *at).stderr
    assert "enable" not in run(*create, code=1).stderr


def test_faults_are_shown(run: Run, service: CliService) -> None:
    ordered = shown(id="f2", orderedBy="device", operation="KillTcp (boom)")
    service.on("GET", f"{HUB}/faults", [shown(), ordered, shown(deviceIds=[], prefix="plant-")])
    service.on("GET", f"{HUB}/faults/f2", ordered)
    service.on("DELETE", f"{HUB}/faults/f2", Reply(None, 204))
    at = ("--hub", "plant-a")
    first, *_, third = run("fault", "list", *at).stdout.splitlines()[1:]
    assert first.split() == [FAULT_ID, "delay", "d1", "2026-01-01T00:01:00Z", "7"]
    assert "plant-…" in third
    assert "KillTcp (boom)" in run("fault", "show", "f2", *at).stdout
    assert parsed(run("fault", "show", "f2", "--json", *at)) == ordered
    assert "ended" in run("fault", "delete", "f2", *at).stderr


def test_faults_of_registrations(run: Run, service: CliService) -> None:
    dps, at = "/admin/v1/dps", ("--service", "dps")
    service.on("PUT", f"{dps}/fault-injection", {"enabled": True})
    service.on("GET", f"{dps}/fault-injection", {"enabled": False})
    service.on("GET", f"{dps}/faults", [])
    service.on("POST", f"{dps}/faults", shown(kind="refuse"))
    service.on("DELETE", f"{dps}/faults/{FAULT_ID}", Reply(None, 204))
    assert "on for provisioning" in run("fault", "enable", *at).stderr
    assert "muster fault enable --service dps" in run("fault", "list", *at).stderr
    result = run("fault", "create", "refuse", "--device-id", "sensor-01", *at)
    assert service.calls[-1].body["deviceIds"] == ["sensor-01"]
    assert f"muster fault delete {FAULT_ID} --service dps" in result.stderr
    run("fault", "delete", FAULT_ID, *at)
    run("fault", "list", "--hub", "plant-a", *at, code=2)
