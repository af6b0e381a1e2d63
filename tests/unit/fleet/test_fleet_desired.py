"""What devices report of their desired properties (hub-device.md 2.5, edge.md 5.2)."""

from __future__ import annotations

from typing import Any

from muster.fleet.desired import Desired


def agent(version: int, code: int) -> dict[str, Any]:
    description = "" if code == 200 else "Nothing is deployed"
    return {
        "schemaVersion": "1.0",
        "lastDesiredVersion": version,
        "lastDesiredStatus": {"code": code, "description": description},
    }


def test_a_device_reports_the_version() -> None:
    desired = Desired(edge=False)
    twin = {"desired": {"x": 1, "$version": 7}, "reported": {"$version": 1}}
    assert desired.whole(twin) == {"simulation": {"appliedVersion": 7}}
    assert desired.patch({"x": None, "$version": 8}) == {"simulation": {"appliedVersion": 8}}
    assert desired.version == 8


def test_what_stands_there_is_not_reported_again() -> None:
    desired = Desired(edge=False)
    reported = {"simulation": {"appliedVersion": 7}, "other": 1, "$version": 2}
    assert desired.whole({"desired": {"$version": 7}, "reported": reported}) is None
    assert desired.version == 7


def test_an_older_change_is_nothing() -> None:
    desired = Desired(edge=False)
    desired.whole({"desired": {"$version": 7}})
    assert desired.patch({"x": 1, "$version": 7}) is None
    assert desired.version == 7


def test_an_agent_tells_an_empty_deployment_apart() -> None:
    desired = Desired(edge=True)
    assert desired.whole({"desired": {"$version": 1}, "reported": {}}) == agent(1, 417)
    change = {"schemaVersion": "1.1", "modules": {"a": {}}, "$version": 2}
    assert desired.patch(change) == agent(2, 200)
    assert desired.patch({"modules": None, "$version": 3}) == agent(3, 200)
    assert desired.patch({"schemaVersion": None, "$version": 4}) == agent(4, 417)
