"""Deployments from the command line, against the running service."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from support.device import unique
from support.events import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from support.instance import Instance


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A base deployment in a file, in the wrapping that tools of Azure use."""
    agent = {
        "schemaVersion": "1.1",
        "runtime": {"type": "docker", "settings": {}},
        "systemModules": {"edgeAgent": {"settings": {}}, "edgeHub": {"settings": {}}},
        "modules": {"thermo": {"type": "docker", "settings": {"image": "thermo:1"}}},
    }
    content = {"modulesContent": {"$edgeAgent": {"properties.desired": agent}}}
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps({"content": content}))
    return file


def edge(instance: Instance, **tags: Any) -> str:
    device_id = unique("edge")
    hub = instance.hub()
    hub.must("PUT", f"/devices/{device_id}", {"capabilities": {"iotEdge": True}})
    hub.must("PATCH", f"/twins/{device_id}", {"tags": tags})
    return device_id


def hub_of(instance: Instance) -> tuple[str, str]:
    return "--hub", instance.place.hubs[0]


def test_from_preview_to_deletion(shared_instance: Instance, manifest: Path) -> None:
    instance, on = shared_instance, hub_of(shared_instance)
    site, name = unique("site"), unique("dep")
    device_id = edge(instance, site=site)
    condition = f"tags.site = '{site}'"
    assert instance.cli("deployment", "preview", condition, *on)["matching"] == 1
    created = instance.run_cli(
        *("deployment", "create", name, "--content", f"@{manifest}"),
        *("--target", condition, "--priority", "3", *on),
    )
    assert created.returncode == 0, created.stderr
    assert "matches 1 edge device now" in created.stderr
    (last,) = [look for look in _watched(instance, name) if look["applied"] == 1][:1]
    assert last == {"matching": 1, "targeted": 1, "applied": 1, "succeeded": 0, "failed": 0}
    agent = f"/twins/{device_id}/modules/$edgeAgent"
    shown = instance.hub().must("GET", agent)
    assert shown["properties"]["desired"]["modules"]["thermo"]["settings"]["image"] == "thermo:1"
    why = instance.cli("deployment", "explain", name, "--device", device_id, *on)
    assert (why["outcome"], why["modules"]) == ("applied", {"thermo": name})
    assert "not answered" in why["agent"]
    rows = instance.cli("deployment", "show-metric", name, "appliedCount", *on)
    assert rows == [{"deviceId": device_id}]
    assert name in [each["id"] for each in instance.cli("deployment", "list", *on)]
    assert name not in [each["id"] for each in instance.cli("configuration", "list", *on)]
    other = instance.run_cli("configuration", "show", name, *on)
    assert other.returncode == 1
    assert f"muster deployment show {name}" in other.stderr
    changed = instance.cli("deployment", "update", name, "--priority", "4", *on)
    assert (changed["priority"], changed["targetCondition"]) == (4, condition)
    assert instance.run_cli("deployment", "delete", name, *on).returncode == 0
    assert name not in [each["id"] for each in instance.cli("deployment", "list", *on)]


def _watched(instance: Instance, name: str) -> list[dict[str, Any]]:
    """Watch until it is applied; the agent of the test never answers."""
    looks = []
    for look in instance.follow(
        "deployment", "watch", name, "--forever", "--interval", "0.1", *hub_of(instance)
    ):
        looks.append(look)
        if look["applied"]:
            break
    return looks


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (("--target", "tags.a ="), 1, "nothing has been saved"),
        (("--content", "@nowhere.json"), 2, "cannot read nowhere.json"),
        (("--content", '{"modules": {}}'), 2, "expected an object with one of"),
        (("--content", '{"deviceContent": {"properties.desired.a": 1}}'), 2, "modulesContent"),
        (("--content", '{"modulesContent": {"a": {}}}'), 1, "$edgeAgent"),
        (("--priority", "-1"), 2, "priority"),
    ],
)
def test_what_is_refused(
    shared_instance: Instance, manifest: Path, options: tuple[str, str], code: int, told: str
) -> None:
    name = unique("dep")
    done = shared_instance.run_cli(
        *("deployment", "create", name, "--content", f"@{manifest}", "--target", "*"),
        *(*options, *hub_of(shared_instance)),
    )
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert shared_instance.hub().call("GET", f"/configurations/{name}").status == 404


def test_whom_nobody_is(shared_instance: Instance, manifest: Path) -> None:
    name, device_id = unique("dep"), edge(shared_instance, on="true")
    on = hub_of(shared_instance)
    create = ("deployment", "create", name, "--content", f"@{manifest}")
    condition = f"deviceId = '{device_id}' AND tags.on = true"
    done = shared_instance.run_cli(*create, "--target", condition, *on)
    assert done.returncode == 0, done.stderr
    assert "matches no edge device now" in done.stderr
    why = shared_instance.run_cli("deployment", "explain", name, "--device", device_id, *on)
    assert "not targeted" in why.stdout
    assert "string" in why.stdout


def test_modules_by_hand(shared_instance: Instance, manifest: Path) -> None:
    device_id = edge(shared_instance)
    modules = shared_instance.cli(
        "deployment",
        "set-modules",
        device_id,
        "--content",
        f"@{manifest}",
        *hub_of(shared_instance),
    )
    assert sorted(modules) == ["$edgeAgent", "$edgeHub", "thermo"]


def test_a_configuration_of_twins(shared_instance: Instance) -> None:
    name, device_id = unique("cfg"), unique("dev")
    shared_instance.hub().create_device(device_id)
    content = '{"deviceContent": {"properties.desired.rate": 5}}'
    on = hub_of(shared_instance)
    made = shared_instance.cli(
        *("configuration", "create", name, "--content", content),
        *("--target", f"deviceId = '{device_id}'", *on),
    )
    assert made["content"]["deviceContent"] == {"properties.desired.rate": 5}
    assert shared_instance.cli("configuration", "show", name, *on)["id"] == name


def test_a_list_shows_each_with_its_own_counts(shared_instance: Instance, manifest: Path) -> None:
    on, site = hub_of(shared_instance), unique("site")
    devices = [edge(shared_instance, site=site, n=number) for number in range(3)]
    names = [unique("dep") for _ in range(2)]
    for priority, (name, condition) in enumerate(
        zip(names, (f"tags.site = '{site}'", f"deviceId = '{devices[0]}'"), strict=True)
    ):
        created = shared_instance.run_cli(
            *("deployment", "create", name, "--content", f"@{manifest}", "--target", condition),
            *("--priority", str(priority), *on),
        )
        assert created.returncode == 0, created.stderr

    def counts() -> list[tuple[int, int]]:
        listed = {each["id"]: each for each in shared_instance.cli("deployment", "list", *on)}
        results = [listed[name]["systemMetrics"]["results"] for name in names]
        return [(each["targetedCount"], each["appliedCount"]) for each in results]

    wait_for(lambda: counts() == [(3, 2), (1, 1)])
