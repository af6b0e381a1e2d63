"""Queries: what is sent, and what is shown."""

from __future__ import annotations

from typing import Any

from unit.cli.cli_service import Call, CliService, Reply
from unit.cli.conftest import Run, parsed

QUERY = "SELECT tags.site, deviceId FROM devices"
TWIN = {
    "deviceId": "press-1",
    "etag": "AAAAAAAAAAE=",
    "status": "enabled",
    "connectionState": "Connected",
    "tags": {"site": "a", "on": "true"},
    "properties": {"desired": {}, "reported": {}},
}


def test_a_query_in_pages(run: Run, service: CliService) -> None:
    def page(call: Call) -> Any:
        if "x-ms-continuation" in call.headers:
            return [{"deviceId": "d2"}]
        return Reply([{"site": "a", "deviceId": "d1"}], headers={"x-ms-continuation": "next"})

    service.on("POST", "/devices/query", page)
    result = run("query", "run", QUERY)
    assert service.calls[-1].body == {"query": QUERY}
    assert service.calls[-1].headers["x-ms-continuation"] == "next"
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["site", "deviceId"],
        ["a", "d1"],
        ["-", "d2"],
    ]
    assert len(parsed(run("query", "run", QUERY, "--json"))) == 2
    assert len(parsed(run("query", "run", QUERY, "--json", "--top", "1"))) == 1
    assert service.calls[-1].headers["x-ms-max-item-count"] == "1"


def test_whole_twins(run: Run, service: CliService) -> None:
    service.on("POST", "/devices/query", [TWIN])
    lines = run("query", "run", "SELECT * FROM devices").stdout.splitlines()
    assert lines[0].split() == ["DEVICE", "ID", "STATUS", "CONNECTION", "TAGS"]
    assert lines[1].split() == ["press-1", "enabled", "Connected", '{"site":"a","on":"true"}']
    service.on("POST", "/devices/query", [{**TWIN, "moduleId": "m1"}])
    assert "m1" in run("query", "run", "SELECT * FROM devices.modules").stdout


def test_nothing_found(run: Run, service: CliService) -> None:
    service.on("POST", "/devices/query", [])
    assert "Nothing found" in run("query", "run", QUERY).stderr
    assert parsed(run("query", "run", QUERY, "--json")) == []


def test_explain(run: Run, service: CliService) -> None:
    service.on("GET", "/twins/press-1", TWIN)
    service.on("GET", "/twins/press-1/modules/m1", {**TWIN, "moduleId": "m1"})
    call = ("query", "explain", "tags.on = true AND tags.site = 'a'", "--device", "press-1")
    text = run(*call).stdout
    assert text.splitlines()[1].split() == ["Holds", "no"]
    assert 'tags.on is the string "true", not a boolean.' in text
    assert "tags.site" not in text.splitlines()[-1]
    found = parsed(run(*call, "--json"))
    assert found["holds"] is False
    assert [reason["found"] for reason in found["reasons"]] == [
        [{"path": "tags.on", "type": "string", "value": "true"}]
    ]
    call = ("query", "explain", "moduleId = 'm1'", "--device", "press-1", "--module", "m1")
    assert "Holds      yes" in run(*call).stdout


def test_explain_warns_of_names_that_no_twin_has(run: Run, service: CliService) -> None:
    service.on("GET", "/twins/press-1", TWIN)
    assert "'tag'" in run("query", "explain", "tag.site = 'a'", "--device", "press-1").stderr


def test_wrong_conditions(run: Run) -> None:
    result = run("query", "explain", "tags.site =", "--device", "press-1", code=2)
    assert "position 12: expected a value" in result.stderr
