from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from unit.cli.cli_service import CliService, Reply, refusal
from unit.cli.conftest import Run, parsed

HUB = "localhost"
BASE = f"/admin/v1/routing/hubs/{HUB}"
STATUS = {"delivered": 5, "waiting": 2, "lost": 0, "failingSince": None, "lastError": None}
ROUTE = {
    "name": "alarms",
    "source": "DeviceMessages",
    "condition": "level = 'alarm'",
    "endpointNames": ["hook", "events"],
    "isEnabled": True,
}
HOOK = {
    "name": "hook",
    "kind": "webhook",
    "url": "https://x.example.org",
    "auth": "hmac",
    "maxBatchEvents": 200,
    "timeoutS": 30.0,
    "hasSecret": True,
    "status": STATUS,
}
FILES = {
    "name": "files",
    "kind": "file",
    "directory": "",
    "maxFileBytes": 64 << 20,
    "maxFileAgeS": 3600.0,
    "hasSecret": False,
    "status": {**STATUS, "failingSince": "2026-01-31T12:00:00.5Z", "lastError": "full"},
}


@pytest.fixture(autouse=True)
def _one_hub(service: CliService) -> None:
    hubs = [{"host": HUB, "local": True}, {"host": "far.example.org", "local": False}]
    service.on("GET", "/admin/v1/hubs", hubs)


def echo(service: CliService, path: str, shown: dict[str, Any]) -> None:
    """Answer a PUT with something, and a GET after it, too."""

    def put(_: Any) -> Reply:
        service.on("GET", path, shown)
        return Reply(shown)

    service.on("PUT", path, put)


def test_routes_as_a_table(run: Run, service: CliService) -> None:
    service.on("GET", f"{BASE}/routes", [ROUTE])
    shown = run("route", "list").stdout.splitlines()
    assert shown[0].split() == ["NAME", "SOURCE", "CONDITION", "ENDPOINTS", "ENABLED"]
    assert shown[1].split("  ") == [
        "alarms",
        "DeviceMessages",
        "level = 'alarm'",
        "hook, events",
        "yes",
    ]
    assert parsed(run("route", "list", "--json")) == [ROUTE]


def test_a_route_is_made_once(run: Run, service: CliService) -> None:
    echo(service, f"{BASE}/routes/alarms", ROUTE)
    command = ("route", "create", "alarms", "--endpoint", "hook", "--endpoint", "events")
    run(*command, "--condition", "level = 'alarm'", "--source", "devicemessages")
    (call,) = service.sent("PUT", f"{BASE}/routes/alarms")
    assert call.body == {
        "endpointNames": ["hook", "events"],
        "condition": "level = 'alarm'",
        "source": "DeviceMessages",
    }
    failed = run(*command, code=1)
    assert "exists already" in failed.stderr
    assert "muster route update alarms" in failed.stderr


def test_an_update_keeps_what_is_not_said(run: Run, service: CliService) -> None:
    path = f"{BASE}/routes/alarms"
    service.on("GET", path, ROUTE)
    echo(service, path, ROUTE)
    run("route", "update", "alarms", "--disable")
    (call,) = service.sent("PUT", path)
    assert call.body == {**ROUTE, "isEnabled": False}
    run("route", "update", "$fallback", "--condition", "true", code=2)


def test_where_a_message_would_go(run: Run, service: CliService) -> None:
    answer = {
        "endpoints": [{"name": "hook", "enrichments": {"site": "a"}}],
        "routes": [
            {
                "name": "alarms",
                "matches": True,
                "endpointNames": ["hook"],
                "reasons": ["level = 'alarm' is true."],
            }
        ],
    }
    service.on("POST", f"{BASE}/test", answer)
    command = ("route", "test", "--body", '{"t": 1}', "--properties", '{"level": "alarm"}')
    shown = run(*command, "--device", "d1", "--hub", HUB)
    (call,) = service.sent("POST", f"{BASE}/test")
    assert call.body == {"body": {"t": 1}, "properties": {"level": "alarm"}, "deviceId": "d1"}
    assert "alarms  yes      level = 'alarm' is true." in shown.stdout
    assert 'hook     {"site":"a"}' in shown.stdout
    assert parsed(run(*command, "--json")) == answer


def test_endpoints_and_how_they_do(run: Run, service: CliService) -> None:
    built_in = {"name": "events", "kind": "built-in"}
    service.on("GET", f"{BASE}/endpoints", [built_in, HOOK, FILES])
    rows = [line.split() for line in run("endpoint", "list").stdout.splitlines()[1:]]
    assert rows == [
        ["events", "built-in", "-", "-", "-", "-"],
        ["hook", "webhook", "https://x.example.org", "5", "2", "ok"],
        ["files", "file", "files", "5", "2", "failing", "since", "2026-01-31T12:00:00Z"],
    ]
    service.on("GET", f"{BASE}/endpoints/files", FILES)
    shown = run("endpoint", "show", "files").stdout
    assert "File size              64MiB" in shown
    assert "Because                full" in shown


@pytest.mark.parametrize(
    ("noun", "kind", "more"),
    [
        ("route", "routes", ("--condition", "true")),
        ("enrichment", "enrichments", ("1",)),
    ],
)
def test_an_endpoint_that_is_not_there(
    noun: str, kind: str, more: tuple[str, ...], run: Run, service: CliService
) -> None:
    missing = refusal(404, 404000, "The hub has no endpoint 'none'")
    service.on("GET", f"{BASE}/{kind}/x", refusal(404, 404000, "There is no such thing"))
    service.on("PUT", f"{BASE}/{kind}/x", missing)
    failed = run(noun, "create", "x", *more, "--endpoint", "none", code=1)
    assert failed.stderr.endswith("Next: muster endpoint list\n")


def test_the_secret_comes_from_a_file(run: Run, service: CliService, tmp_path: Path) -> None:
    path = f"{BASE}/endpoints/hook"
    echo(service, path, HOOK)
    (tmp_path / "key").write_text("geheim\n")
    command = ("endpoint", "create-webhook", "hook", "https://x.example.org")
    shown = run(*command, "--auth", "hmac", "--secret-file", str(tmp_path / "key"))
    assert "geheim" not in shown.output
    (call,) = service.sent("PUT", path)
    assert call.body == {
        "kind": "webhook",
        "url": "https://x.example.org",
        "auth": "hmac",
        "secret": "geheim",
    }
    (tmp_path / "empty").write_text("\n")
    run(*command, "--secret-file", str(tmp_path / "empty"), code=2)
    run("endpoint", "update-webhook", "hook", "--max-batch", "5")
    assert service.sent("PUT", path)[-1].body == {
        **{name: HOOK[name] for name in ("name", "kind", "url", "auth", "timeoutS")},
        "maxBatchEvents": 5,
    }
    run("endpoint", "update-file", "hook", code=2)


def test_sizes_and_times_as_people_write_them(run: Run, service: CliService) -> None:
    path = f"{BASE}/endpoints/files"
    echo(service, path, FILES)
    command = ("endpoint", "create-file", "files", "--directory", "a/b")
    run(*command, "--max-file-size", "1.5GB", "--max-file-age", "15m")
    assert service.sent("PUT", path)[0].body == {
        "kind": "file",
        "directory": "a/b",
        "maxFileBytes": 1_500_000_000,
        "maxFileAgeS": 900.0,
    }
    for option, value in (("--max-file-size", "5 stones"), ("--max-file-age", "5")):
        run("endpoint", "create-file", "x", option, value, code=2)


def test_enrichments(run: Run, service: CliService) -> None:
    path = f"{BASE}/enrichments/site"
    shown = {"key": "site", "value": "$twin.tags.site", "endpointNames": ["hook"]}
    echo(service, path, shown)
    run("enrichment", "create", "site", "$twin.tags.site", "--endpoint", "hook")
    assert service.sent("PUT", path)[0].body == {
        "value": "$twin.tags.site",
        "endpointNames": ["hook"],
    }
    run("enrichment", "update", "site", "--value", "x")
    assert service.sent("PUT", path)[1].body == {**shown, "value": "x"}
    service.on("GET", f"{BASE}/enrichments", [shown])
    assert "site  $twin.tags.site  hook" in run("enrichment", "list").stdout
    service.on("DELETE", path, Reply(status=204))
    run("enrichment", "delete", "site", "--yes")


def test_consumer_groups(run: Run, service: CliService) -> None:
    path = f"/admin/v1/consumer-groups/hubs/{HUB}"
    made = {"name": "dash", "createdTime": "2026-01-31T12:00:00.5Z", "isDefault": False}
    service.on("PUT", f"{path}/dash", made)
    assert parsed(run("consumer-group", "create", "dash", "--json")) == made
    default = {"name": "$Default", "createdTime": None, "isDefault": True}
    service.on("GET", path, [default, made])
    shown = run("consumer-group", "list").stdout
    assert "$Default  -" in shown
    assert "dash      2026-01-31T12:00:00Z" in shown


def test_retention(run: Run, service: CliService) -> None:
    path = f"/admin/v1/retention/hubs/{HUB}"
    kept = {
        "maxAgeS": 86_400.0,
        "maxBytes": None,
        "effective": {"maxAgeS": 86_400.0, "maxBytes": 10 << 30},
    }
    service.on("GET", path, kept)
    service.on("PUT", path, kept)
    assert run("hub", "retention").stdout.splitlines() == ["Age   1d", "Size  10GiB (default)"]
    run("hub", "retention", HUB, "--size", "50GiB")
    run("hub", "retention", "--default")
    assert [call.body for call in service.sent("PUT", path)] == [
        {"maxAgeS": 86_400.0, "maxBytes": 50 << 30},
        {"maxAgeS": None, "maxBytes": None},
    ]
    run("hub", "retention", "--default", "--age", "1d", code=2)


def test_several_hubs_must_be_told_apart(run: Run, service: CliService) -> None:
    hubs = [{"host": "a.example", "local": True}, {"host": "b.example", "local": True}]
    service.on("GET", "/admin/v1/hubs", hubs)
    assert "--hub" in run("route", "list", code=2).stderr
    service.on("GET", "/admin/v1/routing/hubs/b.example/routes", refusal(404, 404000, "No hub"))
    assert "No hub" in run("route", "list", "--hub", "b.example", code=1).stderr


def test_twin_catch_up(run: Run, service: CliService) -> None:
    path = f"/admin/v1/hubs/{HUB}/twin-catch-up"
    service.on("GET", path, {"enabled": False})
    service.on("PUT", path, {"enabled": True})
    assert run("hub", "twin-catch-up").stdout.splitlines() == ["Twin catch-up  off"]
    assert not service.sent("PUT", path)
    assert run("hub", "twin-catch-up", HUB, "--on").stdout.splitlines() == ["Twin catch-up  on"]
    run("hub", "twin-catch-up", "--off")
    assert [call.body for call in service.sent("PUT", path)] == [
        {"enabled": True},
        {"enabled": False},
    ]
